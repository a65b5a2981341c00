"""How far twelve image statistics tell data sets apart, by the way from file to pixel: the probe on real data.

    python -m benchmarks.shortcut_probe --eurosat data/EuroSAT_RGB --ucmerced data/UCMerced_LandUse

Three decode paths, the same for both sets: to 224 px, to 64 px (bilinear, antialiased), and to 64 px with JPEG of
quality 75. The probe is fitted on 5,000 training patches of EuroSAT's published random split (a seeded choice) and
asked about its test split against UC Merced; and, fitted without a class, about the test patches of that class.
Writes probe.md, probe.csv and probe.tex with DeLong's intervals; of the ten classes the mean with Student's t interval.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t

from ssl_sat.data import SOURCES
from ssl_sat.data.sources.contract import PatchRef, Source
from ssl_sat.data.spec import DataSpec, EurosatRgbSpec, UcMercedSpec
from ssl_sat.ood.metrics import delong
from ssl_sat.ood.shortcut_probe import STATISTICS, ShortcutProbe, image_statistics
from ssl_sat.report.tables import Column, Estimate, Value, write_tables
from ssl_sat.seeding import key

PATHS = (
    ("both to 224 px", {"size_px": 224, "recompress": "none"}),
    ("both to 64 px", {"size_px": 64, "recompress": "none"}),
    ("both to 64 px, JPEG 75", {"size_px": 64, "recompress": "jpeg75"}),
)
COLUMNS = (
    Column("path", "decode path"),
    Column("ood", "OOD"),
    Column("n_fit", "n fit"),
    Column("n_id", "n ID"),
    Column("n_ood", "n OOD"),
    Column("auroc", "AUROC [95 %]", digits=4),
)
_FIT, _BATCH = 5000, 200


class Images:
    """Statistics (N, 12) of the images of a source, with their splits and classes; at most `fit` of train."""

    def __init__(self, spec: DataSpec, fit: int) -> None:
        source: Source = SOURCES.build(spec)
        refs = [ref for ref in source.listing().refs if ref.split in ("train", "test")]
        train = [ref for ref in refs if ref.split == "train"]
        generator = np.random.Generator(np.random.Philox(key=key(0, "probe-fit")))
        kept = [train[at] for at in np.sort(generator.permutation(len(train))[:fit])]
        self.refs = [*kept, *(ref for ref in refs if ref.split == "test")]
        self.statistics_NS = np.concatenate(list(_statistics(source, self.refs)))
        self.split_N = np.array([ref.split for ref in self.refs])
        self.class_N = np.array([ref.labels[0] for ref in self.refs])

    def of(self, split: str, without: str | None = None) -> NDArray[np.float64]:
        """Statistics of a split, without a class."""
        return self.statistics_NS[(self.split_N == split) & (self.class_N != without)]


def _statistics(source: Source, refs: Sequence[PatchRef]) -> Iterator[NDArray[np.float64]]:
    bands = source.facts.bands
    for first in range(0, len(refs), _BATCH):
        pixels = np.stack([source.read(ref)[0] for ref in refs[first : first + _BATCH]])
        yield image_statistics(torch.from_numpy(pixels).float() / 255, bands).numpy()


def rows_of(name: str, own: Images, other: Images) -> list[dict[str, Value]]:
    """UC Merced, every held-out class, and their mean."""
    rows = [_row(name, "UC Merced", own.of("train"), own.of("test"), other.of("test"))]
    values = []
    for cls in sorted(set(own.class_N)):
        held_out = own.statistics_NS[(own.split_N == "test") & (own.class_N == cls)]
        rows.append(_row(name, f"EuroSAT {cls}", own.of("train", cls), own.of("test", cls), held_out))
        values.append(rows[-1]["auroc"].value)  # type: ignore[union-attr]
    half = float(t.ppf(0.975, len(values) - 1)) * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = float(np.mean(values))
    rows.append(
        {"path": name, "ood": "EuroSAT, mean over held-out classes", "auroc": Estimate(mean, mean - half, mean + half)}
    )
    return rows


def _row(path: str, ood: str, fit: NDArray, inside: NDArray, outside: NDArray) -> dict[str, Value]:
    probe = ShortcutProbe.fit(fit)
    area = delong(probe(inside), probe(outside))
    counts = {"n_fit": len(fit), "n_id": len(inside), "n_ood": len(outside)}
    return {"path": path, "ood": ood, **counts, "auroc": Estimate(area.value, area.low, area.high)}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--eurosat", required=True, help="the unpacked EuroSAT_RGB")
    parser.add_argument("--lists", default=None, help="folder of the published lists; default: beside the images")
    parser.add_argument("--ucmerced", required=True, help="the unpacked UCMerced_LandUse")
    parser.add_argument("--out", default="outputs/probe")
    parser.add_argument("--fit", type=int, default=_FIT, help="training patches that the probe is fitted on")
    options = parser.parse_args()
    rows: list[dict[str, Value]] = []
    for name, values in PATHS:
        own = Images(EurosatRgbSpec(root=options.eurosat, splits_dir=options.lists, **values), options.fit)  # type: ignore[arg-type]
        other = Images(UcMercedSpec(root=options.ucmerced, **values), options.fit)  # type: ignore[arg-type]
        rows += rows_of(name, own, other)
        print(f"{name}: UC Merced {rows[-12]['auroc']}, held-out mean {rows[-1]['auroc']}", flush=True)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    caption = (
        f"The shortcut probe ({len(STATISTICS)} image statistics, one mean, one full covariance), fitted on EuroSAT "
        "RGB training patches, by decode path. Higher score = more OOD."
    )
    for path in write_tables(out / "probe", COLUMNS, rows, caption):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
