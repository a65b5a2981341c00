"""Do the pixels look like what the source says of them? Doubts are told, never acted on.

Pure functions over the finished statistics and a sample of records. Each rule compares a statement (level, offset,
scale, order of the bands) with a property that real Sentinel-2 scenes have whatever they show, and its bound lies well
outside what was measured on BigEarthNet v1 and v2, EuroSAT and other L2A patches (table in docs/datasets.md).

# N patches, C bands of one group, H rows, W columns, B bands of all groups
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_sat.data.sources.contract import Facts

BandStats = Mapping[str, Mapping[str, float]]
SAMPLE = 64  # patches whose pixels are correlated
_FEWEST, _FEWEST_TO_CORRELATE = 3, 16  # patches; one field or one cloud looks like anything
_DN = 10_000.0  # Sentinel-2 quantification value
_NEIGHBOURS = {  # the bands nearest in wavelength: one of them must be the most correlated, or close to it
    "B02": ("B01", "B03", "B04"),
    "B03": ("B02", "B04", "B05"),
    "B06": ("B07", "B08", "B8A"),
    "B07": ("B06", "B08", "B8A"),
    "B08": ("B06", "B07", "B8A"),
    "B8A": ("B06", "B07", "B08"),
    "B11": ("B05", "B12"),
    "B12": ("B05", "B11"),
}
_SLACK = 0.02  # of the correlation


def doubts(facts: Facts, stats: BandStats, sample: Sequence[np.ndarray] = ()) -> list[str]:
    """Return what speaks against `facts`, a sentence each with its measured basis; [] when nothing does.

    stats: {band: {mean, p01, p50, p99, ...}} in reflectance, of the training split. sample: records of some patches,
    one array (N, C, H, W) of digital numbers per group. Only Sentinel-2 reflectance is checked.
    """
    if facts.sensor != "Sentinel-2" or facts.level == "display" or facts.synthetic:
        return []
    there = {name: stats[name] for name in facts.bands}
    group = facts.groups[0]
    if stats[group.bands[0]]["count"] < _FEWEST * group.height * group.width:
        return []
    scale = _scale(facts, there)
    if scale:  # where the scale is wrong the bounds below mean nothing
        return scale
    return [*_offset(facts, there), *_level(facts, there), *_darkest(there), *_order(facts, sample)]


def doubts_of(folder: Path, facts: Facts) -> list[str]:
    """`doubts` of the finished stats.json and patches.bin in `folder`, with evenly spaced records as the sample."""
    stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))["bands"]
    shapes = [(len(group.bands), group.height, group.width) for group in facts.groups]
    sizes = [c * h * w for c, h, w in shapes]
    records = np.memmap(folder / "patches.bin", np.dtype(facts.dtype).newbyteorder("<"), "r").reshape(-1, sum(sizes))
    some = records[np.unique(np.linspace(0, len(records) - 1, SAMPLE).astype(int))]
    groups = np.split(some, np.cumsum(sizes)[:-1], axis=1)
    return doubts(facts, stats, [group.reshape(-1, *shape) for group, shape in zip(groups, shapes, strict=True)])


def _scale(facts: Facts, stats: BandStats) -> list[str]:
    brightest = max(stats, key=lambda name: stats[name]["p50"])
    value = stats[brightest]["p50"]
    if 0.002 < value < 1.5:
        return []
    return [
        f"scale {facts.scale:g} is doubtful: the median of {brightest}, the brightest band, is a reflectance of "
        f"{value:.4g}; Sentinel-2 scenes lie between 0.01 and 1 (digital numbers are reflectance x 10000)"
    ]


def _offset(facts: Facts, stats: BandStats) -> list[str]:
    low = {name: band["p01"] * _DN for name, band in stats.items()}
    darkest = min(low, key=low.__getitem__)
    if facts.offset == 0:
        near = [name for name, value in low.items() if 900 <= value <= 1300]
        if low[darkest] < 900 or len(near) < max(2, len(low) / 4):
            return []
        return [
            f"offset 0 is doubtful: no band is darker than {low[darkest]:.0f} at its first percentile ({darkest}), and "
            f"{len(near)} of {len(low)} bands start between 900 and 1300 ({', '.join(near)}), as with the offset of "
            "1000 that processing baseline 04.00 brought"
        ]
    if low[darkest] >= -500:
        return []
    return [
        f"offset {facts.offset:g} is doubtful: after it the first percentile of {darkest} is a reflectance of "
        f"{low[darkest] / _DN:.4f}; surfaces hardly fall below -0.02, as if the data had no offset"
    ]


def _level(facts: Facts, stats: BandStats) -> list[str]:
    found = []
    if facts.level == "L2A" and "B10" in stats:
        found.append("level L2A is doubtful: there is a band B10, which atmospheric correction leaves out")
    if "B01" not in stats or "B02" not in stats:
        return found
    coastal, blue = stats["B01"]["p01"], stats["B02"]["p01"]
    swir = min((stats[name]["p01"] for name in ("B11", "B12") if name in stats), default=0.0)
    basis = f"the first percentiles of B01 and B02 are {coastal:.3f} and {blue:.3f}"
    if facts.level == "L1C" and (coastal < 0.05 or blue < 0.03):
        found.append(f"level L1C is doubtful: {basis}, but air alone scatters more than 0.05 and 0.03; L2A would fit")
    if facts.level == "L2A" and coastal > 0.08 and blue > 0.055 and swir < 0.03:
        found.append(f"level L2A is doubtful: {basis} where the short-wave infrared falls to {swir:.3f}, as if the "
                     "scattering of the air were still in it; L1C would fit")  # fmt: skip
    return found


def _darkest(stats: BandStats) -> list[str]:
    if "B10" not in stats or len(stats) < 4:
        return []
    mean = {name: band["mean"] for name, band in stats.items()}
    second = min((name for name in mean if name != "B10"), key=mean.__getitem__)
    if mean["B10"] < 0.5 * mean[second]:
        return []
    return [
        f"the order of the bands is doubtful: the mean of B10 is {mean['B10']:.4f}, of {second} {mean[second]:.4f}; "
        "B10 sees cirrus only and is darkest by far"
    ]


def _order(facts: Facts, sample: Sequence[np.ndarray]) -> list[str]:
    r_BB = band_correlation(sample) if len(sample) and len(sample[0]) >= _FEWEST_TO_CORRELATE else None
    if r_BB is None:
        return []
    at = {name: number for number, name in enumerate(facts.bands)}
    strange = []
    for name, neighbours in _NEIGHBOURS.items():
        near = [other for other in neighbours if other in at]
        others = [other for other in at if other != name]
        if name not in at or not near or len(others) < 4 or not np.isfinite(r_BB[at[name]]).all():
            continue
        best = max(others, key=lambda other: r_BB[at[name], at[other]])
        nearest = max(near, key=lambda other: r_BB[at[name], at[other]])
        if r_BB[at[name], at[best]] > r_BB[at[name], at[nearest]] + _SLACK:
            strange.append(f"{name} goes with {best} (r {r_BB[at[name], at[best]]:.3f}) rather than with {nearest} "
                           f"({r_BB[at[name], at[nearest]]:.3f})")  # fmt: skip
    if not strange:
        return []
    return [f"the order of the bands ({' '.join(facts.bands)}) is doubtful: {'; '.join(strange)}"]


def band_correlation(sample: Sequence[np.ndarray]) -> np.ndarray | None:
    """Pearson correlation (B, B), float64, over all pixels of the coarsest grid (means of blocks) of all patches.

    NaN for a constant band. None where the grids do not divide one another.
    """
    height, width = (min(group.shape[axis] for group in sample) for axis in (2, 3))
    if any(group.shape[2] % height or group.shape[3] % width for group in sample):
        return None
    columns = []
    for group_NCHW in sample:
        n, c, rows, cols = group_NCHW.shape
        blocks = group_NCHW.reshape(n, c, height, rows // height, width, cols // width)
        columns.append(blocks.mean((3, 5), dtype=np.float64).swapaxes(0, 1).reshape(c, -1))
    values_BP = np.concatenate(columns)
    values_BP -= values_BP.mean(1, keepdims=True)
    length_B = np.sqrt(np.square(values_BP).sum(1))
    length_B[length_B == 0] = np.nan
    return (values_BP @ values_BP.T) / np.outer(length_B, length_B)
