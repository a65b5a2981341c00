"""Validating less often tells less and changes nothing."""

import torch
from fakes.tuning import make_pack, tune


def test_the_same_weights_by_fewer_validations(tmp_path):
    pack = make_pack(tmp_path)
    line = ["phases=full", "epochs=4"]
    often = tune(pack, tmp_path / "often", *line)
    rarely = tune(pack, tmp_path / "rarely", *line, "trainer.validate_every_n_epochs=2")
    assert [row["epoch"] for row in often.rows if "val_loss" in row] == [0, 1, 2, 3]
    assert [row["epoch"] for row in rarely.rows if "val_loss" in row] == [1, 3]
    assert often.of("all", "val_loss")[1::2] == rarely.of("all", "val_loss")
    ours, theirs = often.model.state_dict(), rarely.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
