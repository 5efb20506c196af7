"""Features to logits over cells, to a position, or to both."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from graticule.choices import Coordinates, HeadKind
from graticule.partition.tree import Tree

PLANE_REACH_KM = 1000.0


class Output(NamedTuple):
    """What a network says of a batch.

    Attributes:
        logits: over cells, shape ``(B, C)``; none from a head without cells.
        position: regressed unit vectors, float64, shape ``(B, 3)``; none from a head without a position.
    """

    logits: Tensor | None
    position: Tensor | None


class Frame(nn.Module):
    """Normalised coordinates of places: what a position is regressed in.

    ``plane`` drops a place onto the tangent plane at the mean of the training photos (the orthographic projection:
    Snyder, Map Projections, USGS 1987, section 20), two coordinates; ``sphere`` keeps the three of the unit vector.
    Both are scaled by what :meth:`fit` finds in the training rows. Float64 throughout: float32 ends at half a metre.
    """

    origin: Tensor
    axes: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, coordinates: Coordinates) -> None:
        super().__init__()
        self.coordinates = coordinates
        self.size = 2 if coordinates == "plane" else 3
        self.register_buffer("origin", torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
        self.register_buffer("axes", torch.eye(3, dtype=torch.float64)[-self.size :])
        self.register_buffer("mean", torch.zeros(self.size, dtype=torch.float64))
        self.register_buffer("std", torch.ones(self.size, dtype=torch.float64))

    @torch.no_grad()
    def fit(self, places: Tensor) -> None:
        """Take the origin, the axes and the scale from these unit vectors, shape ``(N, 3)``."""
        places = places.double()
        if self.coordinates == "plane":
            middle = places.mean(dim=0)
            middle = middle / middle.norm()
            pole = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=places.device)
            if middle[2].abs() > 0.999:  # at a pole every direction is south: take any
                pole = pole.roll(1)
            east = torch.linalg.cross(pole, middle)
            east = east / east.norm()
            self.origin.copy_(middle)
            self.axes.copy_(torch.stack([east, torch.linalg.cross(middle, east)]))
        along = places @ self.axes.T
        spread = along.std(dim=0, correction=0)
        if self.coordinates == "sphere":  # one scale for all, so that an error weighs the same in every direction
            spread = spread.square().mean().sqrt().expand(3)
        self.mean.copy_(along.mean(dim=0))
        self.std.copy_(spread.clamp(min=1e-9))  # 6 mm

    def normalise(self, places: Tensor) -> Tensor:
        """Normalised coordinates ``(B, K)`` of unit vectors ``(B, 3)``."""
        along: Tensor = (places.double() @ self.axes.T - self.mean) / self.std
        return along

    def places(self, coordinates: Tensor) -> Tensor:
        """Unit vectors ``(B, 3)`` of normalised coordinates ``(B, K)``; the inverse of :meth:`normalise`."""
        along = coordinates.double() * self.std + self.mean
        if self.coordinates == "sphere":
            unit: Tensor = functional.normalize(along, dim=1)
            return unit
        along = along / along.norm(dim=1, keepdim=True).clamp(min=1)  # what lies beyond the horizon comes to it
        up = (1 - along.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
        # The root has no slope at the horizon and none is needed: the loss reads the plane alone.
        found: Tensor = along @ self.axes + up.detach() * self.origin
        return found


class HierarchicalSoftmax(nn.Module):
    """Log-probabilities of cells: at each branching of a tree a softmax among its nodes, multiplied on the way down.

    Morin and Bengio, "Hierarchical Probabilistic Neural Network Language Model" (AISTATS 2005). A node's weights are
    shared by all cells below it. The cross-entropy with any target over cells is the sum, over all branchings, of the
    cross-entropies with the target's sums below each node.
    """

    siblings: Tensor
    path: Tensor
    branching: Tensor

    def __init__(self, num_features: int, tree: Tree) -> None:
        super().__init__()
        self.nodes = nn.Linear(num_features, tree.nodes)
        siblings = torch.from_numpy(tree.siblings)
        branching = torch.empty(tree.nodes + 1, dtype=torch.int64)
        branching[siblings] = torch.arange(len(siblings))[:, None]
        for name, index in (("siblings", siblings), ("path", torch.from_numpy(tree.path)), ("branching", branching)):
            self.register_buffer(name, index, persistent=False)  # they follow from the cells

    def forward(self, features: Tensor) -> Tensor:
        """Logarithms of probabilities that sum to one, ``(B, C)``, of features ``(B, F)``."""
        score = functional.pad(self.nodes(features), (0, 1), value=-torch.inf)  # what fills up is never chosen
        among = torch.logsumexp(score[:, self.siblings], dim=2)
        chosen = functional.pad(score[:, :-1] - among[:, self.branching[:-1]], (0, 1))  # and costs nothing on the way
        logits: Tensor = chosen[:, self.path].sum(dim=2)
        return logits


class Head(nn.Module):
    """Linear layers side by side, for cells and for a position, with one hidden layer before them where asked.

    Features of a frozen encoder come in any scale: ``standardise`` sets theirs from the training rows, once. Of longer
    features than ``num_features`` the rest is for comparing photos and is not read.

    Args:
        hidden: width of the hidden layer; 0 for none.
        kind: what is answered; ``both`` is report A's multi-task head (section 3.4).
        tree: of the cells, for :class:`HierarchicalSoftmax`; none for one softmax over all cells.
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self,
        num_features: int,
        num_cells: int,
        hidden: int = 0,
        dropout: float = 0.0,
        kind: HeadKind = "cells",
        coordinates: Coordinates = "sphere",
        tree: Tree | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(num_features, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        width = hidden or num_features
        self.cells: nn.Module | None = None
        if kind != "position":
            self.cells = HierarchicalSoftmax(width, tree) if tree else nn.Linear(width, num_cells)
        self.frame = Frame(coordinates) if kind != "cells" else None
        self.position = nn.Linear(width, self.frame.size) if self.frame else None
        self.has_cells = self.cells is not None

    @torch.no_grad()
    def standardise(self, features: Tensor) -> None:
        """Make each feature of these rows, shape ``(N, F)``, zero on average and of unit spread from now on."""
        features = features[:, : len(self.center)]
        self.center.copy_(features.mean(dim=0))
        self.scale.copy_(1 / features.std(dim=0, correction=0).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Output:
        hidden = self.layers((features[:, : len(self.center)] - self.center) * self.scale)
        logits = self.cells(hidden) if self.cells else None
        if self.position is None or self.frame is None:
            return Output(logits, None)
        with torch.autocast(hidden.device.type, enabled=False):  # bfloat16 would round a town to blocks
            return Output(logits, self.frame.places(self.position(hidden.float())))
