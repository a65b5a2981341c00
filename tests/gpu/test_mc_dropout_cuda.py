"""Dropout passes on CUDA draw the masks of the CPU, by every way that they can be run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssl_sat.encoders.cnn import CNN
from ssl_sat.evaluation.predict import predict
from ssl_sat.methods.heads import ClassifierHead
from ssl_sat.ood.spec import McDropoutSpec
from ssl_sat.training.classifier import Classifier

X = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PLACES = {
    "replay": (0.2, {"dropout": 0.1}),
    "head": (0.0, {"dropout": 0.3}),
    "folded": (0.0, {"kind": "linear", "dropout": 0.3}),
}


@pytest.mark.parametrize("method", ["exact", "moment_matched"])
@pytest.mark.parametrize("place", PLACES)
def test_masks_and_statistics_are_those_of_the_cpu(place: str, method: str) -> None:
    if method == "moment_matched" and place != "folded":
        return
    drop, head = PLACES[place]
    found = []
    for device in ("cpu", "cuda"):
        model = Classifier(CNN(("a", "b", "c"), 16, drop), ClassifierHead(256, 4, **head))  # type: ignore[arg-type]
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0, 0.05)
        rows = torch.arange(20) * 3
        batches = list(zip(X.split(8), rows.split(8), rows.split(8), strict=True))
        found.append(
            predict(
                model.to(device), batches, device, dataset="d", split="test", classes=[*"abcd"],
                ids=[str(n) for n in range(60)], mc=McDropoutSpec(passes=6, method=method),  # type: ignore[arg-type]
            )
        )  # fmt: skip
    own, theirs = found
    np.testing.assert_allclose(theirs.logits_NK, own.logits_NK, atol=1e-3)
    assert own.mc is not None and theirs.mc is not None
    np.testing.assert_allclose(theirs.mc.log_p_NK, own.mc.log_p_NK, atol=2e-3)
    np.testing.assert_allclose(theirs.mc.mutual_information_N, own.mc.mutual_information_N, rtol=0.02, atol=1e-5)
