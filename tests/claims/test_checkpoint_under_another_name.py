"""Published mistake: every notebook writes the same checkpoint name, and a row carries another model's number."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fakes.classifiers import write_classifier
from fakes.models import write_model
from safetensors.torch import load_file, save_file
from torch import nn

import ssl_sat
from ssl_sat.artifact import Artifact, hash_files, publish, write_json
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.foreign import load_foreign
from ssl_sat.spec import ConfigError, UserError
from ssl_sat.verify import verify

RGB = ("red", "green", "blue")


def test_one_name_for_all_models_gives_a_row_anothers_number(tmp_path: Path) -> None:
    labels_N = torch.arange(8) % 2
    x_NC = nn.functional.one_hot(labels_N).float()
    models = {"right": nn.Linear(2, 2, bias=False), "wrong": nn.Linear(2, 2, bias=False)}
    models["right"].weight.data, models["wrong"].weight.data = torch.eye(2), torch.eye(2).flip(0)
    for model in models.values():
        torch.save(model.state_dict(), tmp_path / "best_model.pth")  # as published
    loaded = nn.Linear(2, 2, bias=False)
    loaded.load_state_dict(torch.load(tmp_path / "best_model.pth", weights_only=True))
    accuracy = {name: float((m(x_NC).argmax(1) == labels_N).float().mean()) for name, m in models.items()}
    row_of_the_right_one = float((loaded(x_NC).argmax(1) == labels_N).float().mean())
    assert accuracy == {"right": 1.0, "wrong": 0.0} and row_of_the_right_one == accuracy["wrong"]


def two(outputs: Path, pack: Artifact) -> tuple[Artifact, Artifact]:
    """Two classifiers of one architecture and other weights."""
    mine, theirs = (write_classifier(outputs, pack, ("a", "b", "c"), name) for name in ("mine", "theirs"))
    state = load_file(theirs.path / "model.safetensors")
    save_file({name: value + 1 for name, value in state.items()}, theirs.path / "model.safetensors")
    write_json(theirs.path / "files.json", hash_files(theirs.path))
    return mine, theirs


def test_another_models_weights_under_this_ones_name_are_refused(tmp_path: Path, chain: SimpleNamespace, make) -> None:
    mine, theirs = two(tmp_path, chain.pack)
    assert ssl_sat.load(mine.path).classes == ssl_sat.load(theirs.path).classes == ("a", "b", "c")
    shutil.copyfile(theirs.path / "model.safetensors", mine.path / "model.safetensors")
    said = (
        r"mine-.*/model\.safetensors is not the file that this artifact was published with: its sha256 is \w{16}, rec"
    )
    with pytest.raises(UserError, match=said):
        ssl_sat.load(mine.path)
    with pytest.raises(UserError, match=said):
        make("embed", f"model={mine.path}", f"pack={chain.pack.path}", f"outputs={tmp_path}", "device=cpu")
    wrong = [finding.text for finding in verify(mine.path) if finding.state == "WRONG"]
    assert "file model.safetensors: changed" in wrong


def test_another_models_card_is_refused_too(tmp_path: Path, chain: SimpleNamespace) -> None:
    mine, _ = two(tmp_path, chain.pack)
    shutil.copyfile(chain.tuned.path / "model.json", mine.path / "model.json")
    with pytest.raises(UserError, match=r"model\.json is not the file that this artifact was published with"):
        ssl_sat.load(mine.path)
    write_json(mine.path / "files.json", hash_files(mine.path))  # whoever mends the list meets the network
    with pytest.raises(UserError, match=r"the weights in .*mine-.* do not fit their own model\.json"):
        ssl_sat.load(mine.path)


def test_runs_of_other_settings_have_other_names_and_nothing_is_overwritten(chain: SimpleNamespace, make) -> None:
    again = ("phases=full", "batch_size=8", "subset={per_class: 8}", f"init={chain.pretrained.path}", *chain.given)
    assert make("finetune", *again, "epochs=1").path == chain.tuned.path  # the same settings: the same artifact, reused
    record = {"stage": "finetune", "fingerprint": "0" * 64, "inputs": {}, "choices": "x", "code": {}}
    partial = chain.outputs / "finetune" / "another.partial"
    partial.mkdir()
    with pytest.raises(FileExistsError, match="artifacts are never overwritten"):
        publish(partial, chain.tuned.path, record)
    partial.rmdir()
    assert chain.tuned.path.name.endswith(f"-{chain.tuned.fingerprint[:8]}")


def test_an_artifact_is_taken_for_no_other_encoder(tmp_path: Path, chain: SimpleNamespace, make) -> None:
    with pytest.raises(ConfigError, match=r"encoder=cnn conflicts with init=.*, which holds resnet18"):
        make("finetune", *chain.given, f"init={chain.pretrained.path}", "encoder=cnn", "phases=full", "epochs=1")
    with pytest.raises(UserError, match="is an artifact of stage 'pretrain'; one of stage 'finetune' is needed here"):
        make("ood_eval", f"outputs={chain.outputs}", f"model={chain.pretrained.path}", "ood=imagefolder")
    cnn = write_model(tmp_path, {"name": "cnn"}, RGB, unit="display")
    with pytest.raises(
        ConfigError, match=r"these are not the weights of encoder 'resnet18': \d+ of its 120 are missing"
    ):
        load_foreign(
            ENCODERS.parse({"name": "resnet18"}), cnn.path / "model.safetensors", bands=RGB, image_size=32, seed=0
        )
