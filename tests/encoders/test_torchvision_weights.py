"""Networks that torchvision publishes weights of: names as ours, classifiers and auxiliary ones left out."""

import pytest
import torch
import torchvision

from ssl_sat.bands import AERIAL_RGB, S2_RGB
from ssl_sat.encoders import ENCODERS
from ssl_sat.encoders.foreign import HEADS, load_foreign
from ssl_sat.encoders.imagenet import load_imagenet
from ssl_sat.encoders.stem import adapt_stem
from ssl_sat.spec import WeightsAbsent


@pytest.mark.parametrize(
    "ours, theirs, heads",
    [
        ("googlenet", "googlenet", {"fc", "aux1", "aux2"}),
        ("inception_v3", "inception_v3", {"fc", "AuxLogits"}),
        ("vgg16", "vgg16", {"classifier"}),
        ("densenet", "densenet121", {"classifier"}),
        ("resnet101", "resnet101", {"fc"}),
        ("resnext50", "resnext50_32x4d", {"fc"}),
    ],
)
def test_names_and_shapes_are_torchvisions_but_for_classifiers(ours, theirs, heads):
    options = {"init_weights": False} if theirs in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        encoder = ENCODERS.build(ENCODERS.parse({"name": ours}), bands=S2_RGB, image_size=96, seed=0)
        published = torchvision.models.get_model(theirs, weights=None, **options).state_dict()
    own = {name.removeprefix("trunk."): value.shape for name, value in encoder.state_dict().items()}
    assert own.items() <= {name: value.shape for name, value in published.items()}.items()
    beside = published.keys() - own.keys()
    assert {name.partition(".")[0] for name in beside} == heads
    assert all(HEADS.match(name) for name in beside)


def test_googlenet_from_torchvisions_file_gives_torchvisions_features(tmp_path, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        source = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True).eval()
    hub = tmp_path / "checkpoints"
    hub.mkdir()
    spec = ENCODERS.parse({"name": "googlenet"})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsAbsent, match=r"weights absent: no .*googlenet-1378be20\.pth"):
        load_imagenet(spec, bands=AERIAL_RGB, image_size=64, seed=0)
    torch.save(source.state_dict(), hub / "googlenet-1378be20.pth")
    rgb = load_imagenet(spec, bands=AERIAL_RGB, image_size=64, seed=0).eval()
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    source.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(rgb(x), source(x))
    moved, found = load_foreign(
        spec, hub / "googlenet-1378be20.pth", bands=("B04", "B08"), image_size=64, seed=0, how="by_name"
    )
    assert {name.partition(".")[0] for name in found.left_out} == {"fc", "aux1", "aux2"} and found.missing == ()
    expected = adapt_stem(source.conv1.conv.weight.detach(), AERIAL_RGB, ("B04", "B08"), "by_name")
    assert torch.equal(moved.trunk.conv1.conv.weight, expected)
