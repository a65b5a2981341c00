"""An encoder with a classification head; the trunk and the head can be run apart."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """`forward(x_NCHW) -> logits_NK`; `features(x_NCHW) -> h_ND`; `head(h_ND) -> logits_NK`."""

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def features(self, x_NCHW: Tensor) -> Tensor:
        """The encoder's output, before the head."""
        return self.encoder(x_NCHW)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.features(x_NCHW))
