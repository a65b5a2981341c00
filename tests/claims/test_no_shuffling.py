"""Published mistake: no shuffling, so that every patch meets the same negatives in every epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes.classifiers import write_pack, write_pictures

from ssl_sat.augment.views import Views

PATCHES, BATCH, EPOCHS = 40, 8, 6


def negatives(batches: list[np.ndarray]) -> np.ndarray:
    """How many other patches each one has shared a batch with."""
    met = np.zeros((PATCHES, PATCHES), bool)
    for rows in batches:
        met[np.ix_(rows, rows)] = True
    return met.sum(axis=1) - 1


def test_without_shuffling_seven_negatives_are_all_there_ever_are() -> None:
    loader = torch.utils.data.DataLoader(torch.arange(PATCHES), batch_size=BATCH)  # the published way: no shuffle=True
    batches = [batch.numpy() for _ in range(EPOCHS) for batch in loader]
    assert set(negatives(batches)) == {BATCH - 1}


def test_pretraining_meets_others_in_every_epoch(tmp_path: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "own", ("field", "lake"), PATCHES // 2)
    pack = write_pack(tmp_path, tmp_path / "own", split="none")
    seen: list[tuple[int, np.ndarray]] = []
    views = Views.__call__

    def watched(self: Views, groups, rows_N: torch.Tensor, epoch: int) -> torch.Tensor:
        seen.append((epoch, rows_N.numpy().copy()))
        return views(self, groups, rows_N, epoch)

    monkeypatch.setattr(Views, "__call__", watched)
    run = (f"pack={pack.path}", f"outputs={tmp_path}", "encoder=cnn", "image_size=16", f"batch_size={BATCH}")
    make("pretrain", *run, "augment=simclr_rgb", f"epochs={EPOCHS}", "watch.rankme=0")
    orders = [np.concatenate([rows for e, rows in seen if e == epoch]) for epoch in range(EPOCHS)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(PATCHES))
    assert len({tuple(order) for order in [*orders, np.arange(PATCHES)]}) == EPOCHS + 1
    met = negatives([rows for _, rows in seen])
    expected = (PATCHES - 1) * (1 - (1 - (BATCH - 1) / (PATCHES - 1)) ** EPOCHS)  # of draws by chance: 27.2
    assert met.mean() == pytest.approx(expected, abs=1.0) and met.min() > 2 * (BATCH - 1)
