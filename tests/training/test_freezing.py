"""What trains in a phase, by stage, layer and name; what is frozen does not move."""

import pytest
import torch
from torch import nn

from ssl_sat.encoders import ENCODERS
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.spec import ConfigError
from ssl_sat.training.classifier import Classifier
from ssl_sat.training.finetune_spec import Phase, PhasesSpec
from ssl_sat.training.freezing import expanded, set_trainable, train_mode, trainable

BANDS = ("B04", "B03", "B02")


def classifier(name: str, **values) -> Classifier:
    encoder = ENCODERS.build(ENCODERS.parse({"name": name, **values}), bands=BANDS, image_size=32, seed=0)
    return Classifier(encoder, ClassifierHead(encoder.embed_dim, 4))


def phase(train: str = "all", **values) -> Phase:
    return Phase(epochs=1, train=train, lr=0.1, **values)


def stepped(model: Classifier, of: Phase) -> set[str]:
    """Names of parameters and buffers that two steps of training change."""
    set_trainable(model, of)
    train_mode(model, of)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # residual branches start at zero, so that their insides move from the second step on
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(6) % 4).backward()
        optimizer.step()
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def buffers_of(names: set[str], model: Classifier) -> set[str]:
    return names - dict(model.named_parameters()).keys()


@pytest.mark.parametrize("name", ["cnn", "resnet18", "vit_tiny"])
@pytest.mark.parametrize("train", ["head", "last_stage", "all"])
def test_steps_move_what_trains_and_nothing_else(name, train):
    model = classifier(name)
    moving = trainable(model, phase(train))
    changed = stepped(model, phase(train))
    assert moving == changed & dict(model.named_parameters()).keys()
    last = {"cnn": "encoder.blocks.2", "resnet18": "encoder.trunk.layer4", "vit_tiny": "encoder.trunk.blocks.11"}[name]
    if train == "head":
        assert changed == moving  # no batch norm of the trunk has moved
    if train == "last_stage":
        assert all(key.startswith(last) for key in buffers_of(changed, model))
        closing = ("encoder.trunk.norm.", "head.")  # a ViT's last norm belongs to its last stage
        assert all(key.startswith((last, *closing)) for key in moving) and any(key.startswith(last) for key in moving)


def test_counts_of_the_study_cnn():
    model = classifier("cnn")
    head = 256 * 512 + 512 + 512 * 256 + 256 + 256 * 4 + 4
    assert set_trainable(model, phase("all")) == 1_147_200 + head
    assert set_trainable(model, phase("head")) == head
    block3 = (128 * 256 * 9 + 256) + (256 * 256 * 9 + 256) + 4 * 256
    assert set_trainable(model, phase("last_stage")) == set_trainable(model, phase("last_k", k=1)) == block3 + head


def test_k_stages_and_k_layers():
    model = classifier("resnet18")
    two = trainable(model, phase("last_k", k=2))
    assert {name.split(".")[2] for name in two if name.startswith("encoder")} == {"layer3", "layer4"}
    three = trainable(model, phase("last_k", k=3, unit="layers"))
    blocks = {".".join(name.split(".")[2:4]) for name in three if name.startswith("encoder")}
    assert blocks == {"layer3.1", "layer4.0", "layer4.1"}
    assert trainable(model, phase("last_k", k=5)) == trainable(model, phase("all"))
    with pytest.raises(ConfigError, match=r"phase\.k=6: the encoder has 5 stages; choose 1 to 5"):
        trainable(model, phase("last_k", k=6))


def test_each_k_is_a_phase_of_its_own():
    step = {"epochs": 2, "train": "last_k", "lr": 1e-3}
    spec = PhasesSpec.model_validate({"name": "gradual", "k": "each", "steps": {"stages": step}})
    found = expanded(spec, classifier("vit_tiny"))
    assert list(found) == [f"stages_{k}" for k in range(1, 14)]  # embedding, 12 blocks; the last norm is in the last
    assert [each.k for each in found.values()] == list(range(1, 14))


def test_names_freeze_and_unfreeze_and_the_finer_one_decides():
    model = classifier("resnet18")
    everything = trainable(model, phase("all"))
    layer1 = {name for name in everything if name.startswith("encoder.trunk.layer1.")}
    assert everything - trainable(model, phase("all", freeze=["layer1"])) == layer1
    late = trainable(model, phase("head", unfreeze=["layer3", "layer4"]))
    assert {name.split(".")[2] for name in late if name.startswith("encoder")} == {"layer3", "layer4"}
    some = trainable(model, phase("head", unfreeze=["layer4"], freeze=["layer4.0"]))
    assert {".".join(n.split(".")[2:4]) for n in some if n.startswith("encoder")} == {"layer4.1"}
    same = trainable(model, phase("all", freeze=["layer4"], unfreeze=["layer4.1"]))
    assert {name for name in everything if name.startswith("encoder.trunk.layer4.1.")} <= same
    assert "encoder.trunk.layer4.0.conv1.weight" not in same
    one = trainable(model, phase("head", unfreeze=["layer2.0.bn1.weight"], freeze=["head.layers.0"]))
    assert "encoder.trunk.layer2.0.bn1.weight" in one and "head.layers.0.weight" not in one
    vit = trainable(classifier("vit_tiny"), phase("all", freeze=["patch_embed"]))
    assert not vit & {"encoder.trunk.cls_token", "encoder.trunk.pos_embed", "encoder.trunk.patch_embed.proj.weight"}


def test_wrong_names_are_one_error_that_lists_the_right_ones():
    model = classifier("resnet18")
    listed = r"\(there are stem, layer1, layer2, layer3, layer4, head, and modules within, as layer1\.0\.conv1\)"
    with pytest.raises(ConfigError, match=rf"phase\.freeze: no layer 'layr1' {listed}; did you mean 'layer1'\?"):
        trainable(model, phase("all", freeze=["layr1"]))
    with pytest.raises(ConfigError, match=rf"phase\.unfreeze: no layer 'blocks\.3' {listed}"):
        trainable(model, phase("head", unfreeze=["blocks.3"]))
    with pytest.raises(ConfigError, match="nothing is left to train"):
        set_trainable(model, phase("head", freeze=["head"]))
    with pytest.raises(ConfigError, match=r"'encoder\.trunk\.layer1' and 'layer1' are the same"):
        trainable(model, phase("all", freeze=["layer1"], unfreeze=["encoder.trunk.layer1"]))
    with pytest.raises(ConfigError, match="layer1 cannot be frozen and unfrozen at once"):
        Phase.parse({"epochs": 1, "train": "all", "lr": 1, "freeze": ["layer1"], "unfreeze": ["layer1"]})


@pytest.mark.parametrize(
    "values, moves",
    [({}, {"layer3", "layer4"}), ({"batch_norm": "eval"}, set()), ({"batch_norm": "train"}, None)],
    ids=["follow", "eval", "train"],
)
def test_batch_norm_follows_or_is_told(values, moves):
    model = classifier("resnet18")
    names = {name for name, _ in model.named_modules() if name.endswith(("bn1", "bn2", "downsample.1"))}
    changed = stepped(model, phase("head", unfreeze=["layer3", "layer4"], **values))
    moved = {key.split(".")[2] for key in buffers_of(changed, model)}
    assert moved == ({"bn1", "layer1", "layer2", "layer3", "layer4"} if moves is None else moves) and names


def test_a_frozen_norm_inside_a_stage_that_trains_does_not_move():
    model = classifier("resnet18")
    changed = stepped(model, phase("all", freeze=["layer2.0.bn1"]))
    assert not [key for key in changed if key.startswith("encoder.trunk.layer2.0.bn1")]
    assert [key for key in changed if key.startswith("encoder.trunk.layer2.0.bn2.running_mean")]


def test_dropout_acts_where_something_trains():
    model = classifier("vit_tiny", drop_rate=0.2)
    set_trainable(model, phase("last_stage"))
    train_mode(model, phase("last_stage"))
    drops = {name: m.training for name, m in model.named_modules() if isinstance(m, nn.Dropout) and m.p}
    assert any(drops.values()) and not all(drops.values())
    assert {name for name, on in drops.items() if on} == {
        name for name in drops if name.startswith(("encoder.trunk.blocks.11.", "head."))
    }


def test_trunk_and_head_apart_are_the_whole():
    model = classifier("resnet18").eval()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model.head(model.features(x)), model(x))
