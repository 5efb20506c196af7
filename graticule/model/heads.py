"""Features to logits over cells."""

import torch
from torch import Tensor, nn


class Head(nn.Module):
    """A linear classifier, with one hidden layer before it where asked.

    Frozen features come in any scale: ``standardise`` sets theirs from the training rows, once.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, num_features: int, num_cells: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(num_features, hidden), nn.GELU(), nn.Dropout(dropout)]
        layers.append(nn.Linear(hidden or num_features, num_cells))
        self.layers = nn.Sequential(*layers)

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Make each feature of these rows, shape ``(N, F)``, zero on average and of unit spread from now on."""
        self.center.copy_(features.mean(dim=0))
        self.scale.copy_(1 / features.std(dim=0, correction=0).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.layers((features - self.center) * self.scale)
        return logits
