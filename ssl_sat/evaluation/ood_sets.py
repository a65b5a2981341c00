"""What an out-of-distribution evaluation works on: which patches are in-, which out-of-distribution, and as what.

Tiers
    held_out  near-OOD: patches of the classes that the model was fine-tuned without, of its own pack
    data      far-OOD: another pack, decoded the same way
    split     covariate shift: another split of the model's own pack (the geographic one), the same classes

Sets are train (detectors and probe are fitted on it), val (thresholds and temperature), id and ood.
"""

# N patches of a set

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssl_sat.artifact import Artifact
from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.data.held_out import PackWithout, without_classes
from ssl_sat.data.loader import PatchLoader
from ssl_sat.data.overlap import RELATIONS, relations
from ssl_sat.data.packed import Pack
from ssl_sat.data.subset import SubsetSpec, select
from ssl_sat.evaluation.packs import choose_device
from ssl_sat.ood.shortcut_probe import MIN_FIT, image_statistics
from ssl_sat.seeding import key
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.stage import record_facts
from ssl_sat.training import setup
from ssl_sat.training.model_io import ModelCard, load_classifier

SETS = ("train", "val", "id", "ood")
_UNUSED = "unused"  # name of the training patches that the model's subset left out
Batches = Iterator[tuple[Tensor, Tensor, Tensor]]
Change = Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]]  # (groups, rows_N) -> groups


@dataclass(frozen=True, eq=False)
class Feed:
    """Batches (x_NCHW, rows_N, labels_N) of rows of a pack, as often as they are asked for.

    `change` acts on the records before they become views. `labelled` False: labels mean nothing to the model.
    """

    pack: Pack
    rows: np.ndarray
    views: Any
    batch_size: int
    device: torch.device
    labelled: bool = True
    change: Change | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Batches:
        for batch in PatchLoader(self.pack, self.rows, self.batch_size, device=self.device):
            rows_N, labels_N = batch.rows_N.to(self.device), batch.labels_N.to(self.device)
            groups: Sequence[Tensor] = [group.to(self.device) for group in batch.groups]
            if self.change is not None:
                groups = self.change(groups, rows_N)
            yield self.views.center(groups), rows_N, labels_N if self.labelled else torch.full_like(rows_N, -1)

    def class_names(self) -> list[str | None]:
        """Each row's own class in its own data set, held-out ones included; None where it has none."""
        pack = self.pack.whole if isinstance(self.pack, PackWithout) else self.pack
        if pack.manifest.label_kind != "single":
            return [None] * len(self.rows)
        return [pack.classes[label] if label >= 0 else None for label in pack.labels[self.rows]]


class Watched:
    """A feed whose images the shortcut probe looks at while they pass: its statistics cost no second reading."""

    def __init__(self, feed: Feed, card: ModelCard) -> None:
        self.feed, self.card = feed, card
        self._parts: list[np.ndarray] = []

    def __iter__(self) -> Batches:
        self._parts = []
        mean_C, std_C = (
            torch.tensor(values, device=self.feed.device)[:, None, None]
            for values in self.card.normalisation.of(self.card.bands)
        )
        for x_NCHW, rows_N, labels_N in self.feed:
            self._parts.append(image_statistics(x_NCHW * std_C + mean_C, self.card.bands).cpu().numpy())
            yield x_NCHW, rows_N, labels_N

    def statistics(self) -> np.ndarray:
        """(N, 12), once the feed has passed."""
        return np.concatenate(self._parts)


@dataclass(frozen=True, eq=False)
class Context:
    """The model with its card, those of an ensemble's other members, and a feed for each of `SETS` (val where it is).

    groups: parts of the OOD set that are reported apart, name -> mask (N,). validation: OOD patches that may be used
    to choose with, and are in no reported number. identical: OOD patches left out for being in-distribution ones, too.
    initialisation: what the model's training started from, in words.
    """

    spec: Any
    model: Any
    card: ModelCard
    members: Sequence[tuple[Any, ModelCard]]
    feeds: Mapping[str, Feed]
    groups: Mapping[str, np.ndarray]
    validation: np.ndarray
    identical: int
    device: torch.device
    demo: bool
    initialisation: str

    @property
    def names(self) -> tuple[str, str]:
        """What to call the two sides in a title."""
        own = self.feeds["id"].pack.manifest.source
        if self.spec.tier == "data":
            return f"{own} ({self.spec.id_split})", self.feeds["ood"].pack.manifest.source
        if self.spec.tier == "split":
            return f"{own} ({self.spec.id_split})", f"{own} ({self.spec.ood_split})"
        return f"{own} ({self.spec.id_split})", "held-out " + ", ".join(_held_out(self.feeds["id"].pack))


def prepare(spec: Any, inputs: Mapping[str, Artifact], out: Path) -> Context:
    """Open everything; refuse OOD data that took another way from file to pixel, or that lies in the ID set."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    device = choose_device(spec.device)
    model, card = load_classifier(inputs["model"].path)
    data = without_classes(Pack.open(inputs["data"].path), inputs["model"].config.get("held_out", ()))
    _enough_to_fit(data)
    id_rows = _some(_id_rows(spec, data, inputs["model"].config), spec.max_id, spec.seed)
    ood, ood_rows = _ood_of(spec, data, inputs, id_rows)
    ood_rows, identical = _not_identical(data, id_rows, ood, ood_rows, mend=spec.tier != "data")
    rows = {"train": _some(data.rows("train"), spec.max_train, spec.seed), "id": id_rows, "ood": ood_rows}
    if "val" in data.splits and len(data.rows("val")) and spec.id_split != "val":
        rows["val"] = _some(data.rows("val"), spec.max_val, spec.seed)
    views = {id(pack): plain_views(pack, card, spec.seed) for pack in (data, ood)}
    feeds = {}
    for name, chosen in rows.items():
        pack = ood if name == "ood" else data
        labelled = name != "ood" or spec.tier == "split"
        feeds[name] = Feed(pack, chosen, views[id(pack)], spec.batch_size, device, labelled)
    groups, validation = _groups(spec, card, feeds)
    setup.record_inputs(out, card, {"data": data, "ood": ood})
    record_facts(out, torch_threads=torch.get_num_threads(), device=str(device))
    demo = any(item.synthetic for item in inputs.values())
    members = _members(inputs, card, device)
    start = initialisation_of(inputs["model"], card)
    return Context(spec, model.to(device), card, members, feeds, groups, validation, identical, device, demo, start)


def initialisation_of(model: Artifact, card: ModelCard) -> str:
    """What a fine-tuned artifact says of its start; what its card says, for one made before it did."""
    return str(model.metrics.get("initialisation", card.initialisation))


def seen_before(pack: Pack, card: ModelCard) -> bool:
    """Whether the network met the held-out classes before fine-tuning, without their labels: they are not unseen then.

    Data sets count as the same when their names begin alike (eurosat_rgb and eurosat_ms hold the same places).
    """
    if not isinstance(pack, PackWithout):
        return False
    family = pack.manifest.source.partition("_")[0]
    without = f"without {'+'.join(pack.held_out)})"
    earlier = [text.removeprefix("synthetic ") for text in card.trained_on[:-1]]
    return any(text.startswith(family) and not text.endswith(without) for text in earlier)


def _members(inputs: Mapping[str, Artifact], card: ModelCard, device: torch.device) -> list[tuple[Any, ModelCard]]:
    """The other members of an ensemble, which must know the same classes."""
    found = []
    for slot, artifact in inputs.items():
        if slot.startswith("member"):
            model, own = load_classifier(artifact.path)
            if own.classes != card.classes:
                raise ConfigError(f"ensemble: {artifact.path} knows other classes ({', '.join(own.classes or ())}).")
            found.append((model.to(device), own))
    return found


def plain_views(pack: Pack, card: ModelCard, seed: int) -> Any:
    """Views of evaluation: the card's framing, no draw."""
    return setup.views(AugmentSpec(name="none", eval=card.framing), pack, card, seed)


def _id_rows(spec: Any, data: Pack, config: Mapping[str, Any]) -> np.ndarray:
    """Rows of the in-distribution split; `unused` are training patches that the model was not trained on."""
    if spec.id_split != _UNUSED:
        if spec.id_split == "train":
            raise ConfigError("id_split=train: the model was trained on these patches. Choose test, val or unused.")
        return data.rows(spec.id_split)
    subset = config.get("subset")
    if not subset:
        raise ConfigError(
            "id_split=unused needs a model that was fine-tuned on a subset of the train split, as in "
            "`finetune subset={fraction: 0.9}`; this one has used all of it."
        )
    rows = data.rows("train")
    return np.setdiff1d(rows, select(data, rows, SubsetSpec.parse(subset)))


def _ood_of(spec: Any, data: Pack, inputs: Mapping[str, Artifact], id_rows: np.ndarray) -> tuple[Pack, np.ndarray]:
    """The pack that OOD patches come from, and their rows."""
    if spec.tier == "data":
        ood = Pack.open(inputs["ood"].path)
        _same_decode(data, ood)
        return ood, setup.rows_of(ood, spec.ood_split or "all")
    if spec.tier == "held_out":
        if not isinstance(data, PackWithout):
            raise ConfigError(
                "tier=held_out: the model was fine-tuned on all classes. Fine-tune one without some: "
                "python -m ssl_sat.finetune 'held_out=[<class>]'"
            )
        split = spec.ood_split or "test"
        rows = data.held_out_rows(None if split == "all" else split)
        if not len(rows):
            raise UserError(f"{data.folder} holds no patch of {', '.join(data.held_out)} in split '{split}'.")
        return data, rows
    if spec.ood_split in (None, "train", spec.id_split):
        raise ConfigError(
            f"tier=split compares two splits that the model was not trained on: id_split={spec.id_split} and "
            f"ood_split={spec.ood_split}. Set ood_split to another one than id_split, as in ood_split=test "
            "id_split=unused."
        )
    return data, np.setdiff1d(data.rows(spec.ood_split), id_rows)


def _same_decode(data: Pack, ood: Pack) -> None:
    """The pixels of both sets must have come the same way, or the way is what gets detected."""
    if data.manifest.decode_sha256 != ood.manifest.decode_sha256:
        mine, other = data.manifest.decode, ood.manifest.decode
        differing = sorted(name for name in {*mine, *other} if mine.get(name) != other.get(name))
        shown = "; ".join(f"{name}: {mine.get(name)} against {other.get(name)}" for name in differing)
        raise UserError(
            f"in- and out-of-distribution data were decoded differently ({shown}), which alone would tell them apart. "
            f"Pack both with the same settings, as in ood.size_px=... and ood.recompress=..."
        )


def _not_identical(
    data: Pack, id_rows: np.ndarray, ood: Pack, ood_rows: np.ndarray, *, mend: bool
) -> tuple[np.ndarray, int]:
    """OOD rows whose record, bit for bit, is that of no in-distribution patch, and how many others there were.

    Of another data set any such patch is an error: the folders overlap, in whatever split. Within one data set (`mend`)
    patches that are in train, val or ID as well are left out.
    """
    own = [
        id_rows,
        *(data.rows(split) for split in (("train", "val") if mend else data.splits) if split in data.splits),
    ]
    known = {*data.column("digest").take(np.concatenate(own)).to_pylist()}
    digests = ood.column("digest").take(ood_rows).to_pylist()
    same = np.array([digest in known for digest in digests], bool)
    if same.any() and not mend:
        first = ood.ids[int(ood_rows[np.flatnonzero(same)[0]])]
        raise UserError(
            f"{int(same.sum())} of {len(same)} out-of-distribution patches are in the in-distribution set as well, "
            f"pixel for pixel; the first: '{first}'. Remove them from the folder of the OOD data, or choose other data."
        )
    if same.all():
        raise UserError("every out-of-distribution patch is an in-distribution one as well, pixel for pixel.")
    return ood_rows[~same], int(same.sum())


def _enough_to_fit(data: Pack) -> None:
    """Say before the work, not after it, that the probe's covariance needs more patches."""
    count = len(data.rows("train"))
    if count < MIN_FIT:
        raise UserError(
            f"{data.folder} has {count} training patches; the shortcut probe that stands beside every result is fitted "
            f"on at least {MIN_FIT}. Fine-tune on a larger pack."
        )


def _some(rows: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """A seeded choice of at most `most` rows, in their order; None takes all."""
    if most is None or len(rows) <= most:
        return rows
    generator = np.random.Generator(np.random.Philox(key=key(seed, "ood-rows")))
    return np.sort(generator.permutation(rows)[:most])


def _groups(spec: Any, card: ModelCard, feeds: Mapping[str, Feed]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Parts of the OOD set that are reported apart; and the patches of `validation_classes`."""
    names = np.array([name or "" for name in feeds["ood"].class_names()])
    validation = np.isin(names, spec.validation_classes)
    unknown = sorted({*spec.validation_classes} - {*names})
    if unknown or validation.all():
        there = ", ".join(sorted({*names} - {""})) or "none"
        wrong = f"no class {', '.join(unknown)}" if unknown else "no class is left to report on"
        raise ConfigError(f"validation_classes: {wrong} in the OOD set (there are: {there})")
    if spec.tier == "held_out":
        held_out = _held_out(feeds["id"].pack)
        return ({name: names == name for name in held_out} if len(held_out) > 1 else {}), validation
    if spec.tier == "split" or not any(names):
        return {}, validation
    if spec.overlapping is not None:
        relation = {name: "overlapping" if name in spec.overlapping else "novel" for name in {*names}}
    else:
        own, other = feeds["id"].pack.manifest.source, feeds["ood"].pack.manifest.source
        relation = dict(relations(own, card.classes or (), other, sorted({*names})))
    of_row = np.array([relation[name] for name in names])
    found: dict[str, np.ndarray] = {name: of_row == name for name in RELATIONS if (of_row == name).any()}
    return (found if len(found) > 1 else {}), validation


def _held_out(pack: Pack) -> tuple[str, ...]:
    return pack.held_out if isinstance(pack, PackWithout) else ()
