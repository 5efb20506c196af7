"""SALAD: patches of a transformer gathered into clusters by optimal transport, as MegaLoc uses it.

Izquierdo and Civera, "Optimal Transport Aggregation for Visual Place Recognition" (CVPR 2024, arXiv 2311.15937),
section 3; Berton and Masone, "MegaLoc" (arXiv 2502.17237), for the sizes and the layer at the end.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CLUSTERS, CLUSTER_WIDTH, TOKEN_WIDTH, HIDDEN, WIDTH = 64, 256, 256, 512, 8448
ROUNDS = 3  # of Sinkhorn's algorithm


class Salad(nn.Module):
    """A descriptor of unit length ``(B, 8448)`` of patches ``(B, C, P)`` and a class token ``(B, C)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token_features = nn.Sequential(nn.Linear(channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, TOKEN_WIDTH))
        self.cluster_features = _two_layers(channels, CLUSTER_WIDTH)
        self.score = _two_layers(channels, CLUSTERS)
        self.dust_bin = nn.Parameter(torch.tensor(1.0))
        self.linear = nn.Linear(CLUSTERS * CLUSTER_WIDTH + TOKEN_WIDTH, WIDTH)

    def forward(self, patches: Tensor, token: Tensor) -> Tensor:
        share = self.all_shares(self.score(patches))[:, :-1]
        gathered = torch.einsum("bcp,bkp->bck", self.cluster_features(patches), share)
        parts = [
            functional.normalize(self.token_features(token), dim=1),
            functional.normalize(gathered, dim=1).flatten(1),
        ]
        return functional.normalize(self.linear(functional.normalize(torch.cat(parts, dim=1), dim=1)), dim=1)

    def all_shares(self, score: Tensor) -> Tensor:
        """How much of each patch goes to each cluster, ``(B, K + 1, P)``; the last is a dustbin for what tells none.

        Args:
            score: of each patch for each cluster, ``(B, K, P)``; there must be more patches than clusters.
        """
        batch, clusters, patches = score.shape
        full = torch.cat([score, self.dust_bin.expand(batch, 1, patches)], dim=1)
        total = -math.log(patches + clusters)
        rows = torch.full((clusters + 1,), total, device=score.device, dtype=score.dtype)
        rows[-1] += math.log(patches - clusters)
        u, v = torch.zeros_like(full[:, :, 0]), torch.zeros_like(full[:, 0])
        for _ in range(ROUNDS):
            u = rows - torch.logsumexp(full + v.unsqueeze(1), dim=2)
            v = total - torch.logsumexp(full + u.unsqueeze(2), dim=1)
        return torch.exp(full + u.unsqueeze(2) + v.unsqueeze(1) - total)


def _two_layers(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(channels, HIDDEN, 1), nn.ReLU(), nn.Conv1d(HIDDEN, width, 1))
