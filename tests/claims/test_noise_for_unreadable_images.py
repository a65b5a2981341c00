"""Published mistake: an image that cannot be read becomes noise, the same in both views, and nobody is told."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.eurosat import CLASSES, write_rgb
from PIL import Image, UnidentifiedImageError
from torch.nn.functional import cosine_similarity

from ssl_sat.artifact import Artifact
from ssl_sat.data.packed import Pack
from ssl_sat.losses.collapse import pair_similarities
from ssl_sat.pack import PACK
from ssl_sat.spec import UserError

BROKEN = ("Forest/Forest_3.jpg", "SeaLake/SeaLake_7.jpg", "AnnualCrop/AnnualCrop_1.jpg")


def broken(root: Path, count: int, per_class: int = 10) -> Path:
    """EuroSAT's layout, 30 images, of which some are an error page."""
    write_rgb(root, per_class)
    for name in BROKEN[:count]:
        (root / name).write_text("<html>404 not found</html>")
    return root


def published(path: Path) -> np.ndarray:
    """The study's reader: whatever goes wrong, an image comes back."""
    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except UnidentifiedImageError:
        return np.random.default_rng(42).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def packed(root: Path, outputs: Path, make) -> Artifact:
    return make("pack", "data=eurosat_rgb", f"data.root={root}", "data.split=none", f"outputs={outputs}", "workers=1")


def test_the_mistake_adds_pairs_that_agree_perfectly_and_hides_the_loss_of_images(tmp_path: Path) -> None:
    root = broken(tmp_path / "data", 3)
    images = {path.stem: published(path) for path in sorted(root.rglob("*.jpg"))}
    noise = [images[Path(name).stem] for name in BROKEN]
    assert len(images) == 30  # nothing seems to be missing
    assert all((one == noise[0]).all() for one in noise)  # three classes share one image
    x_ND = torch.tensor(np.stack(noise), dtype=torch.float64).flatten(1)
    assert float(cosine_similarity(x_ND[:1], x_ND[1:]).min()) == pytest.approx(1.0)
    positive, _ = pair_similarities(torch.stack([x_ND, x_ND]))
    assert float(positive) == pytest.approx(1.0, abs=1e-4)


def test_one_of_thirty_is_quarantined_with_its_reason_and_counted(tmp_path: Path, make) -> None:
    artifact = packed(broken(tmp_path / "data", 1), tmp_path, make)
    pack = Pack.open(artifact.path)
    assert artifact.metrics["quarantined"] == pack.manifest.quarantined == 1
    assert artifact.metrics["n"] == len(pack) == 29 and "Forest_3" not in pack.ids
    with open(artifact.path / "quarantine.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["path"], row["id"]) == ("Forest/Forest_3.jpg", "Forest_3") and "cannot identify" in row["reason"]
    assert PACK.headline(artifact.metrics) == ["29 patches, 1 quarantined (quarantine.csv)"]
    counts = np.bincount(pack.labels, minlength=len(CLASSES))
    assert counts.tolist() == [10, 9, 10]


def test_more_than_five_percent_stop_the_packing(tmp_path: Path, make) -> None:
    said = (
        r"2 of 30 patches \(6\.7%\) cannot be read, more than data\.max_quarantined=0\.05\. The first: .*Forest_3\.jpg"
    )
    with pytest.raises(UserError, match=said):
        packed(broken(tmp_path / "data", 2), tmp_path, make)
    assert not list((tmp_path / "pack").glob("*-????????"))
