"""The spread of AUROC over dropout masks, from repeats of the passes of one run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ssl_sat.evaluation.ood import _over_masks
from ssl_sat.evaluation.predict import Predictions, predict
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.ood.metrics import auroc
from ssl_sat.ood.score import Scores
from ssl_sat.ood.spec import McDropoutSpec, MspSpec, MutualInformationSpec
from ssl_sat.training.classifier import Classifier


def run(split: str, shift: float, **mc: int) -> Predictions:
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(len(split))) + shift
    model = Classifier(torch.nn.Linear(6, 8), ClassifierHead(8, 3, dropout=0.4))
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.4)
    return predict(
        model, [(x, torch.arange(60), torch.arange(60) % 3)], dataset="d", split=split, classes=[*"abc"],
        ids=[str(n) for n in range(60)], mc=McDropoutSpec(passes=5, **mc),
    )  # fmt: skip


def test_the_spread_is_over_repeats_and_of_sampled_scores_alone() -> None:
    sets = {"train": run("train", 0), "id": run("test", 0, repeats=4), "ood": run("ood", 1, repeats=4)}
    detectors = (MutualInformationSpec(), MspSpec())
    results = SimpleNamespace(sets=sets, scores={"mutual_information": None, "msp": None})
    found = _over_masks(results, SimpleNamespace(detectors=detectors))  # type: ignore[arg-type]
    areas = [
        auroc(*(Scores("mi", one.mutual_information_N) for one in pair))
        for pair in zip(
            (sets["id"].mc, *sets["id"].mc_repeats), (sets["ood"].mc, *sets["ood"].mc_repeats), strict=True
        )
    ]  # fmt: skip
    assert found == {"mutual_information_auroc_sd_over_masks": pytest.approx(np.std(areas, ddof=1))}
    assert len(set(areas)) > 1


def test_one_set_of_passes_has_no_spread() -> None:
    sets = {"train": run("train", 0), "id": run("test", 0), "ood": run("ood", 1)}
    results = SimpleNamespace(sets=sets, scores={"mutual_information": None})
    assert _over_masks(results, SimpleNamespace(detectors=(MutualInformationSpec(),))) == {}  # type: ignore[arg-type]
