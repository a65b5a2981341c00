"""Pack a data set once: raw patches become one flat file that every later stage reads.

python -m ssl_sat.pack data=eurosat_rgb data.root=/data/EuroSAT_RGB
python -m ssl_sat.pack data=scenes                     # synthetic, marked as such from here on
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SerializeAsAny

from ssl_sat.artifact import Ref, outputs_of, shown
from ssl_sat.data import SOURCES
from ssl_sat.data.spec import DataSpec
from ssl_sat.spec import ConfigError, MissingInput, runtime
from ssl_sat.stage import Inputs, Lookup, Metrics, Stage, StageSpec, execute


class PackSpec(StageSpec):
    """What to pack. `workers` processes read (null: all usable cores); the result does not depend on them."""

    registries: ClassVar = {"data": SOURCES}

    data: SerializeAsAny[DataSpec]
    progress: bool = runtime(True)
    workers: int | None = runtime(None, ge=1)


def run(spec: PackSpec, inputs: Inputs, out: Path) -> Metrics:
    """Write the pack into `out`; return counts and the digest of the records."""
    from ssl_sat.data.packing import write_pack
    from ssl_sat.progress import counter

    with counter("pack", "patches", spec.progress) as advance:
        return write_pack(spec.data, out, advance, spec.workers)


def _science(spec: PackSpec) -> dict[str, Any]:
    from ssl_sat.data.packing import source_digest

    return {**spec.science(), "source": source_digest(spec.data)}


def _choices(spec: PackSpec, inputs: Mapping[str, Ref]) -> str:
    split = getattr(spec.data, "split", None)
    return "-".join([spec.data.name, *([str(split)] if split not in (None, "none") else [])])


def _in_two_splits(metrics: Metrics) -> list[str]:
    count = metrics["duplicates_across_splits"]
    text = f"{count} patches are, bit for bit, also in an earlier split: what is measured on them was seen"
    return [text] if count else []


PACK = Stage(
    "pack",
    1,
    PackSpec,
    run,
    _choices,
    science=_science,
    code=(
        "ssl_sat.data.packing",
        "ssl_sat.data.pack_file",
        "ssl_sat.data.pack_parts",
        "ssl_sat.data.pixel_facts",
        "ssl_sat.data.splits",
        "ssl_sat.data.statistics",
        "ssl_sat.data.sources.contract",
        "ssl_sat.data.sources.bigearthnet",
        "ssl_sat.data.sources.nomenclature",
        "ssl_sat.data.sources.tiff",
        "ssl_sat.data.sources.images",
    ),
    synthetic=lambda spec: spec.data.name == "scenes",
    headline=lambda metrics: [
        f"{metrics['n']} patches, {metrics['quarantined']} quarantined (quarantine.csv)",
        *_in_two_splits(metrics),
        *(f"doubt: {text}" for text in str(metrics["doubts"]).split(" | ") if text),
    ],
)


class PackedData(StageSpec):
    """Fields of a stage that reads a pack: the data set by its spec, or the pack's path."""

    registries: ClassVar = {"data": SOURCES}

    data: SerializeAsAny[DataSpec] = runtime()  # the fingerprint of the pack stands for it
    pack: str | None = runtime(None)


def pack_of(spec: Any, lookup: Lookup, data: DataSpec, path: str | None, field: str = "data") -> Ref:
    """Return the pack to read: the one at `path`, or else the one of this data spec, made now if need be.

    Without `data.root` the newest pack of the same spec is taken, since the raw files may be gone by now;
    with it the files there decide. Raises MissingInput when there is neither; `field` is the data spec's name there.
    """
    if path is not None:
        return lookup.artifact("pack", path)
    if data.root is None and data.name != "scenes":
        same = [a for a in outputs_of("pack", lookup.outputs) if _packs(a.config["data"], data)]
        if same:
            print(f"pack: using {shown(same[0].path)}", flush=True)
            return same[0].ref
    try:
        return execute(PACK, PackSpec(data=data, outputs=spec.outputs, stale=spec.stale)).ref
    except MissingInput as error:
        raise MissingInput(str(error).replace("data.root is not set", f"{field}.root is not set")) from None


def _packs(config: Mapping[str, Any], data: DataSpec) -> bool:
    try:
        return config["name"] == data.name and SOURCES.parse(config).science() == data.science()
    except ConfigError:  # written by another version, whose spec had other fields
        return False


if __name__ == "__main__":
    from ssl_sat.config import main

    main(PACK)
