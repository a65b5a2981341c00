"""Synthetic scenes: deterministic files in the real layout, plausible spectra, classes that can be learned."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from ssl_sat.data import SOURCES
from ssl_sat.data.packed import Pack
from ssl_sat.data.packing import source_digest, write_pack
from ssl_sat.data.sources.scenes import SPECTRA, compose, smooth_noise, write_scenes
from ssl_sat.data.spec import SCENE_CLASSES, ScenesSpec
from ssl_sat.spec import UserError


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_files_are_a_function_of_the_spec(tmp_path: Path) -> None:
    for name, spec in {
        "a": ScenesSpec(patches_per_class=2),
        "b": ScenesSpec(patches_per_class=2),
        "more": ScenesSpec(patches_per_class=3),
        "seed": ScenesSpec(patches_per_class=2, seed=1),
    }.items():
        write_scenes(tmp_path / name, spec)
    a, more, seed = files(tmp_path / "a"), files(tmp_path / "more"), files(tmp_path / "seed")
    assert a == files(tmp_path / "b") and len(a) == 10 * 13 + 1
    assert all(more[name] == data for name, data in a.items() if name != "scenes.json")  # counter-based: only added
    assert not any(data == a.get(name) for name, data in seed.items() if name.endswith(".tif"))


def test_written_once_and_never_over_something_else(tmp_path: Path) -> None:
    spec = ScenesSpec(patches_per_class=1)
    write_scenes(tmp_path / "s", spec)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    write_scenes(tmp_path / "s", spec)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    with pytest.raises(UserError, match="holds other scenes"):
        write_scenes(tmp_path / "s", ScenesSpec(patches_per_class=2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        write_scenes(tmp_path / "mine", spec)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_default_folder_and_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = SOURCES.parse({"name": "scenes", "patches_per_class": 10, "classes": ["water", "forest"]})
    digest = source_digest(spec)
    assert not (tmp_path / "outputs").exists()  # planning writes nothing
    metrics = write_pack(spec, tmp_path / "pack")
    assert digest == source_digest(spec)
    (folder,) = (tmp_path / "outputs" / "scenes").iterdir()
    assert len(folder.name) == 8 and (folder / "scenes.json").is_file()
    assert (metrics["n_train"], metrics["n_val"], metrics["n_test"]) == (14, 2, 4)
    assert Pack.open(tmp_path / "pack").manifest.synthetic


def test_georeferenced_where_the_json_says(tmp_path: Path) -> None:
    import json

    write_scenes(tmp_path / "s", ScenesSpec(patches_per_class=1, classes=("cloud",)))
    (patch,) = (path for path in (tmp_path / "s").iterdir() if path.is_dir())
    facts = json.loads((patch / f"{patch.name}_labels_metadata.json").read_text())
    assert facts["labels"][0] == "cloud" and len(facts["labels"]) >= 2 and facts["synthetic"] is True
    corners = facts["coordinates"]
    for band, px in (("B02", 120), ("B8A", 60), ("B09", 20)):
        with rasterio.open(patch / f"{patch.name}_{band}.tif") as raster:
            assert raster.shape == (px, px) and raster.dtypes == ("uint16",) and raster.crs.to_epsg() == 32632
            assert tuple(raster.bounds) == (corners["ulx"], corners["lry"], corners["lrx"], corners["uly"])


def test_coarse_bands_are_area_means_of_the_10_m_grid(tmp_path: Path) -> None:
    from ssl_sat.bands import S2_L2A

    write_scenes(tmp_path / "s", ScenesSpec(patches_per_class=1, classes=("crops",), seed=5))
    rng = np.random.Generator(np.random.Philox(key=5, counter=[0, 0, 0, 0]))
    rng.integers(0, 12 * 28)  # the date
    reflectance, _ = compose("crops", rng)
    (patch,) = (path for path in (tmp_path / "s").iterdir() if path.is_dir())
    for band, step in (("B04", 1), ("B11", 2), ("B01", 6)):
        fine = reflectance[S2_L2A.index(band)].astype(np.float64)
        want = fine.reshape(120 // step, step, 120 // step, step).mean(axis=(1, 3)) * 10_000
        with rasterio.open(patch / f"{patch.name}_{band}.tif") as raster:
            assert np.abs(raster.read(1) - want).max() <= 0.51


@pytest.mark.parametrize("sigma", [1.0, 4.0, 14.0])
def test_noise_has_unit_variance_and_no_mean(sigma: float) -> None:
    fields = np.stack([smooth_noise(np.random.default_rng(seed), sigma) for seed in range(60)])
    assert np.abs(fields.mean(axis=(1, 2))).max() < 1e-5
    assert np.square(fields).mean() == pytest.approx(1.0, abs=0.1)
    near = (fields * np.roll(fields, 1, axis=1)).mean() / np.square(fields).mean()
    assert near == pytest.approx(np.exp(-1 / (4 * sigma**2)), abs=0.02)  # autocorrelation of a smoothed field


def test_spectra_are_plausible() -> None:
    from ssl_sat.bands import S2_L2A

    def at(name: str, band: str) -> float:
        return SPECTRA[name][S2_L2A.index(band)]

    def ndvi(name: str) -> float:
        return (at(name, "B08") - at(name, "B04")) / (at(name, "B08") + at(name, "B04"))

    assert set(SCENE_CLASSES) < set(SPECTRA) and all(len(s) == 12 for s in SPECTRA.values())
    assert min(ndvi("forest"), ndvi("crops")) > 0.7 and ndvi("water") < 0 and 0.1 < ndvi("soil") < 0.3
    assert all(a >= b for a, b in zip(SPECTRA["water"], SPECTRA["water"][1:], strict=False))
    assert all(at("cloud", b) > max(at(c, b) for c in SPECTRA if c != "cloud") for b in ("B02", "B03", "B04"))


def test_classes_can_be_learned_but_not_trivially(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    config = {"name": "scenes", "root": str(tmp_path / "s"), "patches_per_class": 30, "test_fraction": 0.5}
    write_pack(SOURCES.parse(config), tmp_path / "pack")
    p = Pack.open(tmp_path / "pack")

    def means(split: str) -> np.ndarray:
        return np.concatenate([a.mean(axis=(2, 3)) for a in p.read(p.rows(split))], axis=1)

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(means("train"), p.labels[p.rows("train")])
    accuracy = model.score(means("test"), p.labels[p.rows("test")])
    assert 0.75 < accuracy < 0.99
    pixel = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    centre = [a[:, :, 60, 60].astype(float) for a in (p.read(p.rows(s))[0] for s in ("train", "test"))]
    pixel.fit(centre[0], p.labels[p.rows("train")])
    assert pixel.score(centre[1], p.labels[p.rows("test")]) < accuracy
