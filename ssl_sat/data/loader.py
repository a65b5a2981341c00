"""Batches of a pack. The order is a pure function of (seed, epoch, batch index), never of workers or ranks.

Each global batch is cut into equal contiguous slices, one a rank, so that one and eight devices see the
same batches. Resuming asks the Trainer's counters where it stands, not the iterator, which runs ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ssl_sat.data.packed import Batch, Pack
from ssl_sat.seeding import key
from ssl_sat.spec import ConfigError


class PatchLoader:
    """Iterate over batches of chosen rows of a pack.

    rows_M: row numbers in the pack. batch_size: of all ranks together.
    drop_last: leave out the last, smaller batch (contrastive training needs equal ones).
    progress: returns (epoch, batches processed) of the running training, for checkpoints.

    Raises ConfigError when a whole batch cannot be formed or cannot be divided among the ranks.
    """

    def __init__(
        self,
        pack: Pack,
        rows_M: np.ndarray,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        if drop_last and len(rows_M) < batch_size:
            raise ConfigError(f"batch_size={batch_size} is more than the {len(rows_M)} patches; choose a smaller one.")
        if batch_size % world_size:
            raise ConfigError(f"batch_size={batch_size} (of all devices) cannot be divided among {world_size} devices.")
        self.pack, self.rows_M, self.batch_size = pack, np.asarray(rows_M, dtype=np.int64), batch_size
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self._progress = progress
        self._epoch, self._start = 0, 0

    batch_sampler = None  # Lightning looks for it wherever there is a sampler

    @property
    def sampler(self) -> PatchLoader:
        """Itself: Lightning announces epochs to `loader.sampler.set_epoch` alone."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows_M), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def order(self, epoch: int) -> np.ndarray:
        """Row numbers in the order in which an epoch visits them, all ranks together."""
        if not self.shuffle:
            return self.rows_M
        generator = np.random.Generator(np.random.Philox(key=key(self.seed, "batch-order", epoch)))
        return self.rows_M[generator.permutation(len(self.rows_M))]

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = self._epoch, self._start
        self._start = 0
        order = self.order(epoch)
        for index in range(start, len(self)):
            rows = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield self.pack.batch(self._share(rows))

    def _share(self, rows: np.ndarray) -> np.ndarray:
        return np.array_split(rows, self.world_size)[self.rank]

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, by the Trainer's count of processed batches."""
        epoch, position = self._progress() if self._progress else (self._epoch, 0)
        return {"epoch": epoch, "position": position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; a finished epoch carries into the next."""
        epoch, position = state["epoch"], state["position"]
        self._epoch, self._start = (epoch + 1, 0) if position >= len(self) else (epoch, position)
