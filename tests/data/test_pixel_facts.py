"""Doubts about level, offset, scale and order of bands: from patches whose truth is known."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssl_sat.bands import S2_L2A
from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import write_pack
from ssl_sat.data.pixel_facts import band_correlation, doubts
from ssl_sat.data.sources.contract import Facts, Group
from ssl_sat.data.sources.scenes import compose

N, LAND = 24, ("built_up", "crops", "forest", "soil", "water")
L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
AIR = {"B01": 0.09, "B02": 0.065, "B03": 0.04, "B04": 0.025, "B05": 0.02}


def ground() -> np.ndarray:
    """Scenes of every land class on 40 px, (N, 12, 40, 40) reflectance, bands of S2_L2A."""
    images = [compose(LAND[n % len(LAND)], np.random.Generator(np.random.Philox(n)))[0] for n in range(N)]
    return np.stack(images)[:, :, ::3, ::3]


L2A_NCHW = ground()


def top_of_air() -> np.ndarray:
    """The same with the scattering of the air, and a dark B10, in EuroSAT's order."""
    made = {name: L2A_NCHW[:, at] + AIR.get(name, 0.0) for at, name in enumerate(S2_L2A)}
    made["B10"] = np.full_like(made["B01"], 0.001) + 0.01 * made["B12"]
    return np.stack([made[name] for name in L1C], 1)


def facts(bands: tuple[str, ...], level: str, offset: float = 0.0, scale: float = 10_000.0) -> Facts:
    return Facts("Sentinel-2", level, (Group(bands, 40, 40, 10.0),), "uint16", scale, offset, {})  # type: ignore[arg-type]


def doubted(stated: Facts, dn_NCHW: np.ndarray) -> list[str]:
    """Doubts about digital numbers, with their statistics taken by numpy."""
    values = (dn_NCHW.astype(np.float64) - stated.offset) / stated.scale
    stats: dict[str, Any] = {}
    for at, name in enumerate(stated.bands):
        p01, p50, p99 = np.percentile(values[:, at], (1, 50, 99))
        stats[name] = {"mean": values[:, at].mean(), "p01": p01, "p50": p50, "p99": p99, "count": values[:, at].size}
    return doubts(stated, stats, [dn_NCHW])


def dn(reflectance: np.ndarray, offset: float = 0.0) -> np.ndarray:
    return np.clip(np.rint(reflectance * 10_000 + offset), 1, 65_535).astype(np.uint16)


def test_true_facts_raise_no_doubt() -> None:
    assert doubted(facts(S2_L2A, "L2A"), dn(L2A_NCHW)) == []
    assert doubted(facts(S2_L2A, "L2A", 1000.0), dn(L2A_NCHW, 1000)) == []
    assert doubted(facts(L1C, "L1C"), dn(top_of_air())) == []


def test_an_offset_that_is_not_stated_and_one_that_is_not_there() -> None:
    (said,) = doubted(facts(S2_L2A, "L2A"), dn(L2A_NCHW, 1000))
    assert "offset 0 is doubtful" in said and "of 12 bands start between 900 and 1300" in said
    (said,) = doubted(facts(S2_L2A, "L2A", 1000.0), dn(L2A_NCHW))
    assert "offset 1000 is doubtful" in said


def test_the_other_level() -> None:
    without_b10 = tuple(name for name in L1C if name != "B10")
    keep = [L1C.index(name) for name in without_b10]
    (said,) = doubted(facts(without_b10, "L2A"), dn(top_of_air()[:, keep]))
    assert said.startswith("level L2A is doubtful: the first percentiles of B01")
    (said,) = doubted(facts(S2_L2A, "L1C"), dn(L2A_NCHW))
    assert said.startswith("level L1C is doubtful")
    assert any("there is a band B10" in said for said in doubted(facts(L1C, "L2A"), dn(top_of_air())))


@pytest.mark.parametrize("scale", [1.0, 255.0, 65_535.0 * 100])
def test_another_scale(scale: float) -> None:
    (said,) = doubted(facts(S2_L2A, "L2A", scale=scale), dn(L2A_NCHW))
    assert said.startswith(f"scale {scale:g} is doubtful")


def test_b8a_in_its_place_by_wavelength_instead_of_last() -> None:
    order = [L1C.index(name) for name in (*L1C[:8], "B8A", *L1C[8:12])]
    said = doubted(facts(L1C, "L1C"), dn(top_of_air()[:, order]))
    assert any("the mean of B10" in one and "darkest by far" in one for one in said)


def test_reversed_bands() -> None:
    said = doubted(facts(S2_L2A, "L2A"), dn(L2A_NCHW[:, ::-1]))
    assert any("order of the bands" in one for one in said)


def test_few_patches_other_sensors_display_and_synthetic_data_say_nothing() -> None:
    wrong, stated = dn(L2A_NCHW[:, ::-1], 1000), facts(S2_L2A, "L2A")
    assert doubted(stated, wrong) != []
    assert doubted(stated, wrong[:2]) == []
    for change in ({"sensor": "aerial"}, {"level": "display"}, {"synthetic": True}):
        assert doubted(dataclasses.replace(stated, **change), wrong) == []


def test_correlation_is_numpys_on_block_means_of_several_resolutions() -> None:
    rng = np.random.default_rng(0)
    fine, coarse = rng.random((5, 3, 12, 12)), rng.random((5, 2, 4, 4))
    blocks = fine.reshape(5, 3, 4, 3, 4, 3).mean((3, 5))
    columns = np.concatenate([blocks, coarse], 1).transpose(1, 0, 2, 3).reshape(5, -1)
    np.testing.assert_allclose(band_correlation([fine, coarse]), np.corrcoef(columns), atol=1e-12)
    assert band_correlation([fine, rng.random((5, 1, 5, 5))]) is None
    constant = band_correlation([np.concatenate([fine, np.ones((5, 1, 12, 12))], 1)])
    assert constant is not None and np.isnan(constant[3]).all() and np.isfinite(constant[:3, :3]).all()


def test_doubts_are_in_the_manifest_the_metrics_and_the_index_of_facts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number, pixels in enumerate(dn(L2A_NCHW, 1000)):
        np.save(tmp_path / "data" / f"{number}.npy", np.moveaxis(pixels, 0, -1))
    metrics = write_pack(SOURCES.parse({"name": "npy", "root": str(tmp_path / "data")}), tmp_path / "pack")
    manifest = Pack.open(tmp_path / "pack").manifest
    (said,) = manifest.doubts
    assert said == metrics["doubts"] and said.startswith("offset 0 is doubtful")
    assert manifest.offset_basis == "stated by data.offset" and manifest.baselines == []
    stated = {"name": "npy", "root": str(tmp_path / "data"), "offset": 1000.0}
    write_pack(SOURCES.parse(stated), tmp_path / "right")
    assert Pack.open(tmp_path / "right").manifest.doubts == []


def test_a_pack_of_before_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "0.npy", np.moveaxis(dn(L2A_NCHW)[0], 0, -1))
    write_pack(SOURCES.parse({"name": "npy", "root": str(tmp_path / "data")}), tmp_path / "pack")
    path = tmp_path / "pack" / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("offset_basis", "baselines", "doubts", "filtered"):
        del manifest[name]
    path.write_text(json.dumps(manifest))
    assert Pack.open(tmp_path / "pack").manifest.offset_basis == "not recorded"
