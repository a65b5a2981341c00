"""Batches of a pack. The order is a pure function of (seed, epoch, batch index), never of workers, ranks or memory.

Each global batch is cut into contiguous slices, one a rank, so that one and eight devices see the same batches.
Where the patches stay meanwhile (`residency`) is chosen by free memory and changes nothing but speed. Resuming asks the
Trainer's counters where it stands, not the iterator, which runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ssl_sat.data import residency
from ssl_sat.data.device_store import DeviceFeed, is_there
from ssl_sat.data.packed import Batch, Pack
from ssl_sat.data.residency import Facts, Residency, Tier
from ssl_sat.data.ring import Ring, Waited
from ssl_sat.seeding import key
from ssl_sat.spec import ConfigError


class PatchLoader:
    """Iterate over batches of chosen rows of a pack.

    rows_M: row numbers in the pack. batch_size: of all ranks together.
    shuffle: a new order every epoch, for training. draw: epoch -> the rows that it shows, in order, in the place of a
    permutation: equally many every epoch, some of rows_M perhaps several times. drop_last: leave out the last, smaller
    batch.
    accumulate: batches of one optimiser step; with drop_last an epoch is a whole number of steps.
    progress: returns (epoch, batches processed) of the running training, for checkpoints.
    device: where batches are wanted; CUDA is served, for any other they stay on the CPU. tier: see `residency`.
    depth: batches read ahead. local_ranks: processes of this node. epochs: how many there will be, where known.
    report: is told in one line which tier was chosen.

    Of a last, smaller batch in evaluation every rank gets its slice, empty for some where there are fewer patches than
    ranks, so that all ranks do the same number of steps. Raises ConfigError when a whole batch cannot be formed or
    cannot be divided equally among the ranks.
    """

    def __init__(
        self,
        pack: Pack,
        rows_M: np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        draw: Callable[[int], np.ndarray] | None = None,
        drop_last: bool = False,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[], tuple[int, int]] | None = None,
        device: torch.device | str = "cpu",
        tier: Tier = "auto",
        depth: int = 4,
        local_ranks: int = 1,
        epochs: int | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        self._count = len(rows_M) if draw is None else len(draw(0))
        _check_batches(self._count, batch_size, world_size, shuffle, drop_last)
        residency.check(tier, torch.device(device))
        self.pack, self.rows_M, self.batch_size = pack, np.asarray(rows_M, dtype=np.int64), batch_size
        self.seed, self.shuffle, self.draw, self.drop_last = seed, shuffle, draw, drop_last
        self.accumulate = accumulate
        self.rank, self.world_size = rank, world_size
        self.device, self.tier, self.depth = residency.feeds(torch.device(device)), tier, depth
        self._progress, self._local_ranks, self._epochs, self._report = progress, local_ranks, epochs, report
        self._epoch, self._start = 0, 0
        self._waited = Waited()
        self._feed: DeviceFeed | Ring | None = None
        self.residency: Residency | None = None  # chosen when the first batch is asked for

    batch_sampler = None  # Lightning looks for it wherever there is a sampler

    @property
    def sampler(self) -> PatchLoader:
        """Itself: Lightning announces epochs to `loader.sampler.set_epoch` alone."""
        return self

    @property
    def waited_s(self) -> float:
        """Seconds that the consumer has waited for data so far, uploads included."""
        return self._waited.seconds

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_feed": None}  # threads and device memory stay here

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def __len__(self) -> int:
        whole, rest = divmod(self._count, self.batch_size)
        return whole - whole % self.accumulate if self.drop_last else whole + (rest > 0)

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order in which an epoch visits them, all ranks together."""
        if self.draw is not None:
            return self.draw(epoch)
        if not self.shuffle:
            return self.rows_M
        generator = np.random.Generator(np.random.Philox(key=key(self.seed, "batch-order", epoch)))
        return self.rows_M[generator.permutation(len(self.rows_M))]

    def shares(self, epoch: int) -> list[np.ndarray]:
        """This rank's rows of every batch of an epoch."""
        order, size = self.order(epoch), self.batch_size
        batches = (order[index * size : (index + 1) * size] for index in range(len(self)))
        return [np.array_split(rows, self.world_size)[self.rank] for rows in batches]

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._epoch, self._start
        self._start = 0
        shares = self.shares(epoch)[start:]
        feed = self._chosen_feed()
        if isinstance(feed, DeviceFeed):
            yield from feed.batches(shares, epoch, self._waited)
        else:
            yield from feed.batches(shares, self._waited)
            feed.hint = feed.hint and self._reads_from_disk()

    def _chosen_feed(self) -> DeviceFeed | Ring:
        """Choose at the first batch, when the model is on the device and free memory means something."""
        if self._feed is None:
            chosen = self.residency = self._choose()
            if chosen.tier == "device":
                self._feed = DeviceFeed(
                    self.pack, self.device, self.rows_M, chosen.sharded, self._following if chosen.staged else None
                )
            else:
                self._feed = Ring(self.pack, self.device, self.depth, forget_from=self._first_forgotten(chosen))
            if self._report:
                count, size = len(self.rows_M), len(self.rows_M) * self.pack.manifest.record_bytes
                line = residency.describe(chosen, count, size, self.pack.folder, self.depth, self.device)
                self._report(line)
        return self._feed

    def _choose(self) -> Residency:
        size = self.pack.manifest.record_bytes
        share = -(-self.batch_size // self.world_size)
        if self.tier in ("auto", "device") and self.shuffle and is_there(self.pack, self.rows_M, self.device):
            return Residency("device", "there already")
        facts = Facts(
            set_bytes=len(self.rows_M) * size,
            shard_bytes=-(-len(self.rows_M) // self.world_size) * size,
            batch_bytes=min(share, len(self.rows_M)) * size,
            depth=self.depth,
            host_free=residency.host_free(),
            device_free=residency.device_free(self.device),
            local_ranks=self._local_ranks,
            repeated=self.shuffle,
        )
        return residency.choose(self.tier, facts)

    def _reads_from_disk(self) -> bool:
        """Whether later epochs, too, meet rows that no process of this node has read."""
        return self.residency is None or self.residency.tier == "map" or self.world_size > self._local_ranks

    def _first_forgotten(self, chosen: Residency) -> int | None:
        if chosen.kept_bytes is None:
            return None
        kept = chosen.kept_bytes // self.pack.manifest.record_bytes
        return int(np.sort(self.rows_M)[kept]) if kept < len(self.rows_M) else None

    def _following(self, epoch: int) -> list[np.ndarray] | None:
        last = self._epochs is not None and epoch + 1 >= self._epochs
        return None if last else self.shares(epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, by the Trainer's count of processed batches."""
        epoch, position = self._progress() if self._progress else (self._epoch, 0)
        return {"epoch": epoch, "position": position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; a finished epoch carries into the next."""
        epoch, position = state["epoch"], state["position"]
        self._epoch, self._start = (epoch + 1, 0) if position >= len(self) else (epoch, position)


def _check_batches(patches: int, batch_size: int, world_size: int, shuffle: bool, drop_last: bool) -> None:
    if drop_last and patches < batch_size:
        raise ConfigError(f"batch_size={batch_size} is more than the {patches} patches; choose a smaller one.")
    if batch_size % world_size:
        raise ConfigError(f"batch_size={batch_size} (of all devices) cannot be divided among {world_size} devices.")
    rest = patches % batch_size
    if shuffle and not drop_last and rest % world_size:
        most = patches - patches % world_size
        raise ConfigError(
            f"the last batch of an epoch has {rest} patches, which {world_size} devices cannot share equally; "
            f"choose batch_size={most or world_size} or less, a multiple of {world_size}."
        )
