"""What the exhibits share: stages run through their public path, and one chain from ImageNet's weights to a table."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import timm
from fakes.checkpoints import moved
from fakes.classifiers import PX, write_pack, write_pictures
from PIL import Image
from safetensors.torch import save_file

from ssl_sat.artifact import Artifact
from ssl_sat.config import compose
from ssl_sat.graph.stages import stage_named
from ssl_sat.report import figures
from ssl_sat.stage import execute

Make = Callable[..., Artifact]
KNOWN = ("field", "lake", "roof")
TRAINING = (
    "data=imagefolder", "optim.warmup_epochs=0", "trainer.threads=1", "trainer.accelerator=cpu",
    "trainer.tensorboard=false", "trainer.progress=false", "trainer.log_every_n_steps=1",
)  # fmt: skip


def _undrawn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(figures, "save", lambda figure, stem: [stem])


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is drawn: half of a small run's time, and no exhibit looks at one."""
    _undrawn(monkeypatch)


@pytest.fixture(scope="session")
def make() -> Make:
    """`make("pretrain", "epochs=1", ...)`: the artifact of a command, made in this process, its figures not drawn."""

    def run(command: str, *overrides: str) -> Artifact:
        stage = stage_named(command)
        own = TRAINING if command in ("pretrain", "finetune") else ()
        with pytest.MonkeyPatch.context() as patch:
            _undrawn(patch)
            return execute(stage, compose(command, stage.spec, [*own, *overrides]))

    return run


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, make: Make) -> SimpleNamespace:
    """A 'SimCLR' ResNet-18 that began with ImageNet's weights, fine-tuned, and evaluated on another sensor's pictures.

    The other sensor sees the same classes in the same colours, with finer grain.
    """
    folder = tmp_path_factory.mktemp("a study")
    outputs, weights = folder / "outputs", folder / "r18.safetensors"
    save_file(moved(timm.create_model("resnet18"), 3).state_dict(), weights)
    write_pictures(folder / "own", KNOWN, 110)
    write_pictures(folder / "other", KNOWN, 20, seed=1)
    for path in (folder / "other").rglob("*.png"):
        grain = np.random.default_rng([int(path.stem), *path.parent.name.encode()]).normal(0, 12, (PX, PX, 3))
        Image.fromarray(np.clip(np.asarray(Image.open(path)) + grain, 0, 255).astype(np.uint8)).save(path)
    pack, other = write_pack(outputs, folder / "own"), write_pack(outputs, folder / "other", split="none")
    given = (f"pack={pack.path}", f"outputs={outputs}")
    start = ("encoder=resnet18", "init=imagenet", f"weights={weights}", "image_size=32", "augment=simclr_rgb")
    pretrained = make("pretrain", *given, *start, "epochs=1", "batch_size=8", "subset={patches: 32}")
    part = ("phases=full", "epochs=1", "batch_size=8", "subset={per_class: 8}")
    tuned = make("finetune", *given, f"init={pretrained.path}", *part)
    against = ("ood=imagefolder", f"ood_pack={other.path}", "device=cpu", "max_train=150", "bootstrap=0")
    detectors = ("detectors=[mahalanobis,msp]", "overlapping=[]")
    evaluated = make("ood_eval", f"outputs={outputs}", f"model={tuned.path}", *against, *detectors)
    return SimpleNamespace(
        folder=folder, outputs=outputs, weights=weights, given=given, pack=pack, pretrained=pretrained, tuned=tuned,
        evaluated=evaluated,
    )  # fmt: skip
