"""What the network's answer is compared with."""

import torch
from torch import Tensor
from torch.nn import functional

from graticule.choices import TargetKind
from graticule.geo.sphere import EARTH_RADIUS_KM
from graticule.model.heads import Frame
from graticule.partition import NO_CELL


def distance_targets(photos: Tensor, cells: Tensor, tau_km: float) -> Tensor:
    """Cells weighted by how near they are to each photo, rows summing to one, shape ``(B, C)``.

    PIGEON's haversine smoothing (Haas et al., arXiv 2307.05845, section 3.1), normalised:
    ``exp(-(d - d_min) / tau)``, where ``d`` is the great-circle distance from the photo to a cell's mean position.

    Args:
        photos, cells: unit vectors, shapes ``(B, 3)`` and ``(C, 3)``.
    """
    # The difference of the vectors keeps the digits of metres that a product in float32 would lose.
    chord = (photos[:, None, :].to(cells.dtype) - cells[None, :, :]).norm(dim=2)
    km = 2 * EARTH_RADIUS_KM * torch.asin((chord / 2).clamp(max=1))
    return torch.softmax(-km / tau_km, dim=1)


def cell_loss(
    logits: Tensor,
    rows: Tensor,
    photos: Tensor,
    cells: Tensor,
    *,
    kind: TargetKind,
    smoothing: float,
    tau_km: float,
) -> Tensor:
    """Cross-entropy of a batch, a scalar.

    Args:
        logits: shape ``(B, C)``.
        rows: the true cells, shape ``(B,)``; ``NO_CELL`` counts only for ``distance`` and is left out otherwise.
            Where no photo is left the loss is zero.
        photos, cells: unit vectors, shapes ``(B, 3)`` and ``(C, 3)``.
    """
    if kind == "distance":
        return functional.cross_entropy(logits, distance_targets(photos, cells, tau_km))
    smoothing = smoothing if kind == "smoothed" else 0.0
    total = functional.cross_entropy(logits, rows, ignore_index=NO_CELL, label_smoothing=smoothing, reduction="sum")
    return total / (rows != NO_CELL).sum().clamp(min=1)  # a mean over no photo would be NaN


def position_loss(position: Tensor, photos: Tensor, frame: Frame) -> Tensor:
    """Mean squared error of a batch in normalised coordinates, a scalar (report A, section 3.4).

    Args:
        position, photos: regressed and true unit vectors, shapes ``(B, 3)``.
    """
    return functional.mse_loss(frame.normalise(position), frame.normalise(photos)).float()
