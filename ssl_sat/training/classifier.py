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


def set_trainable(model: Classifier, train: str) -> int:
    """Let 'head', 'last_stage' (with the head) or 'all' train; return the number of parameters that do."""
    model.requires_grad_(False)
    for module in trainable_modules(model, train):
        module.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def trainable_modules(model: Classifier, train: str) -> list[nn.Module]:
    """The modules that train under a choice of `Phase.train`."""
    if train == "all":
        return [model]
    if train == "head":
        return [model.head]
    if train == "last_stage":
        return [last_stage(model.encoder), model.head]
    raise ValueError(train)


def last_stage(encoder: nn.Module) -> nn.Module:
    """The last stage that is more than a closing norm: a ViT's last block with its final norm, a CNN's last block."""
    stages = [module for _, module in encoder.stages]  # type: ignore[union-attr]
    closing = nn.ModuleList()
    for module in reversed(stages):
        closing.append(module)
        if any(p.ndim >= 2 for p in module.parameters()):
            return closing
    return closing


def train_mode(model: Classifier, train: str) -> None:
    """Put what trains in train mode and keep the rest in eval, so that frozen batch norm does not move."""
    model.eval()
    for module in trainable_modules(model, train):
        module.train()
