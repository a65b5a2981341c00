"""Features of many patches, streamed to one Parquet file: memory holds a batch and a row group, whatever the number.

Legend: N patches, C bands, D features.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ssl_sat.augment.spec import AugmentSpec
from ssl_sat.augment.views import Views
from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.sources.contract import OtherSize, PatchRef, UnreadablePatch, decode_digest
from ssl_sat.data.spec import DataSpec
from ssl_sat.data.splits import rank
from ssl_sat.progress import Advance
from ssl_sat.spec import UserError
from ssl_sat.training.model_io import ModelCard, load_encoder

ROW_GROUP = 4096
_BITS = {"uint8": np.uint8, "uint16": np.int16, "float32": np.float32}  # as in ssl_sat.data.packed


class Layout(NamedTuple):
    """What the views need to know of patches: their groups, and value = (dn - offset) / scale."""

    groups: list[tuple[tuple[str, ...], int, int]]
    scale: float
    offset: float
    unit: str
    name: str
    decode_sha256: str = ""  # equal for two data sets whose files went through the same path to a record


class Row(NamedTuple):
    """What is known of a patch beside its features; `label` joins the names of several classes by ';'."""

    id: str
    path: str
    split: str
    label: str | None


class Embedder:
    """An encoder in eval mode with its card: patches of a layout in, features out."""

    def __init__(self, folder: Path, device: torch.device, batch_size: int) -> None:
        encoder, self.card = load_encoder(folder)
        self.encoder: Any = encoder.to(device).eval()
        self.device, self.batch_size, self.dim = device, batch_size, int(encoder.embed_dim)  # type: ignore[arg-type]

    def views(self, layout: Layout) -> Views:
        """The card's framing and normalisation for patches of this layout; UserError where the units differ."""
        return views_of(self.card, layout)

    @torch.inference_mode()
    def __call__(self, views: Views, groups: Sequence[torch.Tensor]) -> np.ndarray:
        """Features (N, D), float32, of patches as a batch holds them."""
        h_ND = self.encoder(views.center([group.to(self.device) for group in groups]))
        return h_ND.float().cpu().numpy()


def views_of(card: ModelCard, layout: Layout) -> Views:
    """The views of evaluation for patches of this layout; UserError where the units differ."""
    own = card.normalisation
    if own.unit != layout.unit:
        raise UserError(
            f"the encoder was trained on {own.unit} values, {layout.name} holds {layout.unit} values: its "
            f"normalisation means nothing there. Fine-tune it on such data first, or embed data of its own unit."
        )
    mean, std = own.of(card.bands)
    return Views(
        AugmentSpec(name="none", eval=card.framing), layout.groups, bands=card.bands, scale=layout.scale,
        offset=layout.offset, mean_C=mean, std_C=std, image_size=card.image_size,
    )  # fmt: skip


class FeatureFile:
    """features.parquet, written row group by row group: id, path, split, label, features (fixed-size list)."""

    def __init__(self, path: Path, dim: int) -> None:
        fields = [(name, pa.string()) for name in Row._fields]
        self.schema = pa.schema([*fields, ("features", pa.list_(pa.float32(), dim))])
        self.writer, self.dim, self.count = pq.ParquetWriter(path, self.schema), dim, 0
        self._rows: list[Row] = []
        self._parts: list[np.ndarray] = []

    def add(self, rows: Sequence[Row], features_ND: np.ndarray) -> None:
        """Append patches; UserError for features that are not finite."""
        bad = np.flatnonzero(~np.isfinite(features_ND).all(1))
        if len(bad):
            raise UserError(f"'{rows[int(bad[0])].id}' and {len(bad) - 1} more have features that are not finite.")
        self._rows += rows
        self._parts.append(features_ND)
        self.count += len(rows)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self.writer.close()

    def _flush(self) -> None:
        if self._rows:
            flat = pa.array(np.concatenate(self._parts).reshape(-1))
            columns = [pa.array(column, pa.string()) for column in zip(*self._rows, strict=True)]
            arrays = [*columns, pa.FixedSizeListArray.from_arrays(flat, self.dim)]
            self.writer.write_table(pa.table(arrays, schema=self.schema))
        self._rows, self._parts = [], []


class Stream(NamedTuple):
    """Patches in batches: rows with the groups of their records, one after the other, whatever the number.

    `unreadable` fills while the batches pass: (path, id, reason).
    """

    layout: Layout
    batches: Iterator[tuple[list[Row], list[torch.Tensor]]]
    unreadable: list[tuple[str, str, str]]


def source_stream(spec: DataSpec, split: str | None, batch_size: int, advance: Advance) -> Stream:
    """Raw files, read one after the other, without a pack."""
    source = SOURCES.build(spec)
    listing, facts = source.listing(), source.facts
    refs = sorted(
        (ref for ref in listing.refs if split in (None, ref.split)), key=lambda ref: (rank(ref.split), ref.id)
    )
    if not refs:
        raise UserError(f"no split '{split}' in {spec.root} (there are: {', '.join({r.split for r in listing.refs})})")
    unit = "display" if facts.level == "display" else "float" if facts.dtype == "float32" else "reflectance"
    groups = [(tuple(group.bands), group.height, group.width) for group in facts.groups]
    unreadable = [(path, os.path.splitext(path)[0], reason) for path, reason in source.passed_over()]

    def batches() -> Iterator[tuple[list[Row], list[torch.Tensor]]]:
        done = 0
        advance(0, len(refs))
        for first in range(0, len(refs), batch_size):
            part = refs[first : first + batch_size]
            read = list(_readable(source, part, unreadable))
            if read:
                arrays = [np.stack(group).view(_BITS[facts.dtype]) for group in zip(*(a for _, a in read), strict=True)]
                yield [_row(ref) for ref, _ in read], [torch.from_numpy(array) for array in arrays]
            done += len(part)
            advance(done, len(refs))

    layout = Layout(groups, facts.scale, facts.offset, unit, str(spec.root), decode_digest(facts.decode))
    return Stream(layout, batches(), unreadable)


def embed_source(embedder: Embedder, spec: DataSpec, split: str | None, out: Path, advance: Advance) -> dict[str, Any]:
    """Features of raw files."""
    return _embed(embedder, source_stream(spec, split, embedder.batch_size, advance), out)


def _embed(embedder: Embedder, stream: Stream, out: Path) -> dict[str, Any]:
    views = embedder.views(stream.layout)
    file = FeatureFile(out / "features.parquet", embedder.dim)
    for rows, groups in stream.batches:
        file.add(rows, embedder(views, groups))
    file.close()
    return {**finished(file.count, stream.unreadable, out), "dim": embedder.dim}


def _readable(
    source: Any, refs: Sequence[PatchRef], unreadable: list[tuple[str, str, str]]
) -> Iterator[tuple[PatchRef, list[np.ndarray]]]:
    """Patches that can be read, each with its arrays; the others are noted with the reason."""
    for ref in refs:
        try:
            if ref.problem is not None:
                raise UnreadablePatch(ref.problem)
            yield ref, source.read(ref)
        except (UnreadablePatch, OtherSize) as reason:
            unreadable.append((ref.path, ref.id, str(reason)))


def _row(ref: PatchRef) -> Row:
    return Row(ref.id, ref.path, ref.split, ";".join(ref.labels) or None)


def pack_stream(folder: Path, split: str | None, batch_size: int, advance: Advance) -> Stream:
    """The patches of a pack, all splits or one; what it could not read when it was made is listed again."""
    pack = Pack.open(folder)
    m = pack.manifest
    rows_M = np.arange(len(pack)) if split is None else pack.rows(split)
    unit = "display" if m.level == "display" else "float" if m.dtype == "float32" else "reflectance"
    groups = [(tuple(group.bands), group.height, group.width) for group in pack.groups]
    names = [[pack.classes[int(k)] for k in held] for held in pack.column("labels").to_pylist()]
    columns = [pack.ids, pack.column("path").to_pylist(), pack.column("split").to_pylist(), names]
    with open(folder / "quarantine.csv", newline="", encoding="utf-8") as quarantine:
        unreadable = [(row["path"], row["id"], row["reason"]) for row in csv.DictReader(quarantine)]

    def batches() -> Iterator[tuple[list[Row], list[torch.Tensor]]]:
        advance(0, len(rows_M))
        for first in range(0, len(rows_M), batch_size):
            rows = rows_M[first : first + batch_size]
            facts = [[column[int(row)] for column in columns] for row in rows]
            yield [Row(i, p, s, ";".join(n) or None) for i, p, s, n in facts], [*pack.batch(rows).groups]
            advance(first + len(rows), len(rows_M))

    return Stream(Layout(groups, m.scale, m.offset, unit, str(folder), m.decode_sha256), batches(), unreadable)


def embed_pack(embedder: Embedder, folder: Path, split: str | None, out: Path, advance: Advance) -> dict[str, Any]:
    """Features of the patches of a pack."""
    return _embed(embedder, pack_stream(folder, split, embedder.batch_size, advance), out)


def finished(count: int, unreadable: list[tuple[str, str, str]], out: Path) -> dict[str, Any]:
    """Write unreadable.csv; return the counts, or UserError when nothing could be read."""
    with open(out / "unreadable.csv", "w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(("path", "id", "reason"))
        table.writerows(unreadable)
    if not count:
        path, _, reason = unreadable[0]
        raise UserError(f"not one of {len(unreadable)} patches can be read. The first: {path}: {reason}.")
    return {"n": count, "unreadable": len(unreadable)}


def deliver(artifact: Path, to: Path) -> list[Path]:
    """Put the features where the user wants them, as .parquet or .npy with <name>.ids.csv; return what was written.

    Unreadable patches, where there are any, go to <name>.unreadable.csv beside it. Each file appears complete.
    """
    features = artifact / "features.parquet"
    if to.suffix == ".npy":
        makers = {to: partial(_as_npy, features), to.with_suffix(".ids.csv"): partial(_as_ids, features)}
    else:
        makers = {to: partial(shutil.copyfile, features)}
    return place(makers, artifact / "unreadable.csv", to)


def place(makers: Mapping[Path, Callable[[Path], Any]], unreadable: Path, to: Path) -> list[Path]:
    """Let each file be made beside its name and rename all at the end; <to>.unreadable.csv where there is something."""
    to.parent.mkdir(parents=True, exist_ok=True)
    makers = dict(makers)
    if len(unreadable.read_bytes().splitlines()) > 1:
        makers[to.with_suffix(".unreadable.csv")] = partial(shutil.copyfile, unreadable)
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in makers}
    for path, make in makers.items():
        make(temporary[path])
    for path, complete in temporary.items():
        os.replace(complete, path)
    return list(makers)


def _as_npy(features: Path, npy: Path) -> None:
    """Rewrite features.parquet, a row group at a time, as an array (N, D)."""
    with pq.ParquetFile(features) as file:
        dim = file.schema_arrow.field("features").type.list_size
        array = np.lib.format.open_memmap(npy, "w+", np.float32, (file.metadata.num_rows, dim))
        at = 0
        for batch in file.iter_batches(ROW_GROUP, columns=["features"]):
            array[at : at + len(batch)] = batch["features"].flatten().to_numpy().reshape(-1, dim)
            at += len(batch)
        array.flush()


def _as_ids(features: Path, ids: Path) -> None:
    """A table of who is in which row."""
    with pq.ParquetFile(features) as file, open(ids, "w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(("row", *Row._fields))
        at = 0
        for batch in file.iter_batches(ROW_GROUP, columns=list(Row._fields)):
            rows = zip(*(batch[name].to_pylist() for name in Row._fields), strict=True)
            table.writerows((at + k, *row) for k, row in enumerate(rows))
            at += len(batch)
