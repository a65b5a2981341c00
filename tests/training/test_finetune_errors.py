"""What can be wrong in the configuration of a fine-tuning: one clear error each, through the command."""

from pathlib import Path

import pytest
from fakes.runs import Run
from fakes.tuning import QUICK, make_pack

OWN = """
name: mine
steps:
  first: {train: head, lr: 1.0e-3}
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pack(tmp_path_factory.mktemp("pack"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["phases=mine"], "error: phases.steps.first.epochs: a value is needed\n"),
        (["phases=full", "epochs=0"], "error: phases.steps.all.epochs: Input should be greater than or equal to 1"),
        (
            ["phases=full", "phases.steps.all.freeze=[blok1]"],
            "error: phases.steps.all.freeze: no layer 'blok1' (there are block1, block2, block3, head, and modules "
            "within, as blocks.0.0); did you mean 'block1'?\n",
        ),
        (["phases=full", "phases.steps.all.freze=[block1]"], "did you mean 'phases.steps.all.freeze'?"),
        (["phases=full", "encoder=vgg16"], "error: image_size=16 is too small for the encoder 'vgg16', which needs 32"),
        (["phases=full", "imbalance=focall"], "did you mean 'focal'?"),
        (
            ["phases=full", "trainer.validate_every_n_epochs=2", "phases.steps.all.stop.patience=3"],
            "error: trainer.validate_every_n_epochs=2: phase all decides by every epoch's validation; set 1\n",
        ),
        (["phases=last_k", "phases.k=9"], "error: phases.steps.last_k.k=9: the encoder has 3 stages; choose 1 to 3\n"),
    ],
)
def test_one_clear_error(overrides, message, pack, tmp_path):
    own = tmp_path / "conf" / "phases"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(OWN)
    line = [f"--config-dir={own.parent}", *QUICK, f"pack={pack}", f"outputs={tmp_path}", *overrides]
    run = Run("finetune", line, tmp_path / "said")
    assert run.code() == 2, run.said
    assert message in run.said and run.said.count("error:") == 1 and "Traceback" not in run.said
