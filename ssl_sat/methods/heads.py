"""What sits on an encoder: the projection of pretraining, the classifier of fine-tuning.

Legend: N patches, D features, K classes.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ssl_sat.encoders.contract import seeded


class ProjectionHead(nn.Module):
    """d - hidden - out, one hidden layer with ReLU (SimCLR section 2.1: 'a MLP with one hidden layer').

    With batch norm after both layers, as in the authors' code, the linear layers have no bias of their own.
    """

    def __init__(self, in_dim: int, hidden: int | None, out: int, batch_norm: bool, seed: int) -> None:
        super().__init__()
        width = hidden or in_dim
        with seeded(seed):
            layers: list[nn.Module] = [nn.Linear(in_dim, width, bias=not batch_norm)]
            layers += [nn.BatchNorm1d(width)] if batch_norm else []
            layers += [nn.ReLU(inplace=True), nn.Linear(width, out, bias=not batch_norm)]
            layers += [nn.BatchNorm1d(out)] if batch_norm else []
        self.layers = nn.Sequential(*layers)

    def forward(self, h_ND: Tensor) -> Tensor:
        """Return embeddings, not normalised."""
        return self.layers(h_ND)


class ClassifierHead(nn.Module):
    """`mlp`: the study's d-512-ReLU-dropout-256-ReLU-dropout-K; `linear`: one layer, dropout before it if any.

    Dropout acts here and nowhere else in the head, so Monte-Carlo dropout re-runs from `layers` onwards.
    """

    def __init__(
        self, in_dim: int, num_classes: int, kind: Literal["mlp", "linear"] = "mlp", dropout: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        if kind not in ("mlp", "linear"):
            raise ValueError(f"kind is mlp or linear, not {kind!r}")
        with seeded(seed):
            if kind == "linear":
                layers: list[nn.Module] = [nn.Dropout(dropout)] if dropout else []
                layers += [nn.Linear(in_dim, num_classes)]
            else:
                layers = [nn.Linear(in_dim, 512), nn.ReLU(), nn.Dropout(dropout)]
                layers += [nn.Linear(512, 256), nn.ReLU(), nn.Dropout(dropout), nn.Linear(256, num_classes)]
        self.layers = nn.Sequential(*layers)

    def forward(self, h_ND: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return self.layers(h_ND)
