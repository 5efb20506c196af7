"""Features to logits over cells, to a position, or to both."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from graticule.choices import Coordinates, HeadKind

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
            unit: Tensor = nn.functional.normalize(along, dim=1)
            return unit
        along = along / along.norm(dim=1, keepdim=True).clamp(min=1)  # what lies beyond the horizon comes to it
        up = (1 - along.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
        # The root has no slope at the horizon and none is needed: the loss reads the plane alone.
        found: Tensor = along @ self.axes + up.detach() * self.origin
        return found


class Head(nn.Module):
    """Linear layers side by side, for cells and for a position, with one hidden layer before them where asked.

    Features of a frozen encoder come in any scale: ``standardise`` sets theirs from the training rows, once. Of longer
    features than ``num_features`` the rest is for comparing photos and is not read.

    Args:
        hidden: width of the hidden layer; 0 for none.
        kind: what is answered; ``both`` is report A's multi-task head (section 3.4).
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
    ) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        if hidden:
            layers += [nn.Linear(num_features, hidden), nn.GELU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        width = hidden or num_features
        self.cells = nn.Linear(width, num_cells) if kind != "position" else None
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
