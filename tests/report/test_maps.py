"""Maps: one layout for several states, what they kept by an independent count, thumbnails, what the page is given."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fakes.maps import CELL_PX, colour, write_map
from PIL import Image
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from ssl_sat.report import projection, sprites
from ssl_sat.report.faithful import among_others, faithfulness, same_group
from ssl_sat.report.map_page import read_map, within
from ssl_sat.spec import UserError

RNG = np.random.default_rng(5)
X_ND = RNG.normal(2, 1, (140, 12)).astype(np.float32)
XY_N2 = RNG.normal(0, 1, (140, 2)) + X_ND[:, :2]


def units(x_ND: np.ndarray) -> np.ndarray:
    x = x_ND.astype(float) - x_ND.mean(0, dtype=float)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def nearest(x_ND: np.ndarray, k: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=k + 1).fit(x_ND).kneighbors(x_ND)[1][:, 1:]


@pytest.mark.parametrize("k", [3, 15])
def test_trustworthiness_and_continuity_equal_scikit_learns(k: int) -> None:
    found = faithfulness(X_ND, XY_N2, neighbours=k)
    assert found.trustworthiness == pytest.approx(trustworthiness(units(X_ND), XY_N2, n_neighbors=k), abs=1e-9)
    assert found.continuity == pytest.approx(trustworthiness(XY_N2, units(X_ND), n_neighbors=k), abs=1e-9)


def test_neighbours_kept_equal_a_plain_count() -> None:
    found = faithfulness(X_ND, XY_N2, neighbours=15)
    for at, size in enumerate(found.sizes_K):
        true, shown = nearest(units(X_ND), size), nearest(XY_N2, size)
        shares = [len({*a} & {*b}) / size for a, b in zip(true, shown, strict=True)]
        assert found.kept_K[at] == pytest.approx(np.mean(shares), abs=1e-12)
        if size == 15:
            np.testing.assert_allclose(found.kept_N, shares, atol=1e-6)
            assert found.kept == pytest.approx(np.mean(shares), abs=1e-6)
    assert np.array_equal(found.near_Nk, nearest(units(X_ND), 15))
    assert found.chance_K[-1] == 100 / 139


def test_a_map_that_is_the_features_keeps_everything() -> None:
    angle = RNG.uniform(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    circle = np.concatenate([circle, -circle])  # centred already
    found = faithfulness(circle, circle * 3)
    assert found.trustworthiness == found.continuity == 1.0 and found.kept > 0.999


def test_shares_by_hand() -> None:
    near = np.array([[1, 2], [0, 3], [3, 0], [2, 1]])
    assert same_group(np.array([0, 0, 1, -1]), near) == pytest.approx((1 + 1 + 0) / 6)
    assert same_group(np.full(4, -1), near) is None
    assert among_others(np.array([False, False, True, True]), near) == pytest.approx((1 + 1) / 4)


def test_a_turned_and_mirrored_map_is_turned_back() -> None:
    turn = np.array([[0.6, -0.8], [0.8, 0.6]]) @ np.diag([1, -1])
    np.testing.assert_allclose(projection.aligned(XY_N2 @ turn + 7, XY_N2), XY_N2, atol=1e-5)


def test_states_share_one_layout_and_differ_where_they_differ() -> None:
    centres = RNG.normal(0, 4, (3, 10))
    group = np.arange(90) % 3
    after = centres[group] + RNG.normal(0, 1, (90, 10))
    other = after.copy()
    other[group == 2] = centres[0] + RNG.normal(0, 1, (30, 10))  # the third cluster lies within the first
    first, same, moved = projection.layouts([after, after.copy(), other], seed=0)
    assert np.array_equal(first, same)
    width = np.ptp(first)
    stayed = np.median(np.linalg.norm(first - moved, axis=1)[group == 1])
    went = np.median(np.linalg.norm(first - moved, axis=1)[group == 2])
    assert stayed < 0.4 * width and went > stayed
    again = projection.layouts([after, after.copy(), other], seed=0)
    assert np.array_equal(moved, again[2])
    for method in ("pca", "tsne"):
        one, two = projection.layouts([after, after.copy()], seed=0, method=method)  # type: ignore[arg-type]
        np.testing.assert_allclose(one, two, atol=1e-3)
        assert faithfulness(after, one).trustworthiness > 0.85
    with pytest.raises(ValueError, match="different numbers"):
        projection.layouts([after, after[:50]], seed=0)
    with pytest.raises(UserError, match="at least 10"):
        projection.layouts([after[:9]], seed=0)


def test_components_of_many_features_span_the_leading_directions() -> None:
    spectrum = 0.9 ** np.arange(600)
    x_ND = (RNG.normal(0, 1, (800, 600)) * spectrum).astype(np.float32) + 3
    own = projection.principal_components(x_ND, 20)
    values = np.linalg.svd(x_ND - x_ND.mean(0), compute_uv=False)[:20]
    np.testing.assert_allclose(np.linalg.norm(own, axis=0), values, rtol=5e-3)
    assert np.array_equal(own, projection.principal_components(x_ND, 20))


def test_thumbnails_lie_where_they_are_looked_for(tmp_path: Path) -> None:
    write_map(tmp_path, ("a", "b", "c"), count=300)
    assert [path.name for path in sorted(tmp_path.glob("*.webp"))] == ["thumbnails-000.webp", "thumbnails-001.webp"]
    for n in (0, 17, 255, 256, 299):
        sheet = np.asarray(Image.open(tmp_path / f"thumbnails-{n // sprites.PER_SHEET:03d}.webp"))
        top, left = n % sprites.PER_SHEET // sprites.COLUMNS * CELL_PX, n % sprites.COLUMNS * CELL_PX
        centre = sheet[top + 4 : top + 12, left + 4 : left + 12].reshape(-1, 3).mean(0)
        assert centre == pytest.approx(colour(n), abs=8), n


def test_sheets_are_made_coarser_until_they_fit() -> None:
    noise = RNG.uniform(0, 1, (64, 32, 32, 3)).astype(np.float32)
    sheet = sprites._encoded(sprites._sheet(list(noise), 32), sprites.QUALITIES[0])
    same, fits = sprites.smaller([sheet], len(sheet))
    assert same == [sheet] and fits
    coarser, fits = sprites.smaller([sheet, sheet], int(1.4 * len(sheet)))
    assert fits and sum(map(len, coarser)) <= 1.4 * len(sheet)
    assert Image.open(BytesIO(coarser[0])).size == Image.open(BytesIO(sheet)).size
    assert not sprites.smaller([sheet], 100)[1]


def test_what_the_page_is_given(tmp_path: Path) -> None:
    points = write_map(tmp_path / "one", ("a", "b <i>", "c"), count=30)
    found = read_map(tmp_path / "one")
    groups = np.frombuffer(base64.b64decode(found.data["group"]), "<u2")
    assert np.array_equal(groups, points.group_N)
    assert [(g["class"], g["ood"], g["count"]) for g in found.data["groups"]] == [
        ("a", False, 10), ("b <i>", False, 10), ("c", True, 10),
    ]  # fmt: skip
    places = [np.frombuffer(base64.b64decode(s["xy"]), "<u2").reshape(-1, 2) for s in found.data["states"]]
    assert max(int(p.max()) for p in places) == 65535 and min(int(p.min()) for p in places) == 0
    right = np.frombuffer(base64.b64decode(found.data["right"]), "i1")
    assert set(right[points.ood_N]) == {-1} and set(right[~points.ood_N]) == {0, 1}
    write_map(tmp_path / "two", ("a", "b <i>", "c"), count=30)  # the same patches: the same sheets
    write_map(tmp_path / "three", ("a", "b <i>", "c"), count=31)
    two, three = read_map(tmp_path / "two"), read_map(tmp_path / "three")
    size = sum(map(len, found.sheets.values()))
    assert two.sheets == found.sheets
    kept, left = within([found, two, three], size)
    assert len(kept) == 2 and left == [three]
