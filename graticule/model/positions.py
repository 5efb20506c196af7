"""GeoCLIP's location encoder: a position to an embedding that photos are compared with, and a denser local gallery.

Vivanco, Nayak and Shah, "GeoCLIP" (NeurIPS 2023, arXiv 2309.16020), section 3.2, and the code of its package.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional

from graticule.geo.sphere import EARTH_RADIUS_KM

# Equal Earth (Savric, Patterson and Jenny, 2019): its polynomial, and the width of its map in units of pi / 180.
_A1, _A2, _A3, _A4, _SCALE = 1.340264, -0.081106, 0.000893, 0.003796, 66.50336
AT_ONCE = 4096
SIDE = 7  # points along each side of a local gallery


def equal_earth(degrees: Tensor) -> Tensor:
    """Positions ``(N, 2)``, latitude and longitude, on an Equal Earth map as GeoCLIP has it; its ``y`` is its own."""
    lat, lon = torch.deg2rad(degrees).unbind(dim=1)
    root = math.sqrt(3)
    theta = torch.asin(root / 2 * torch.sin(lat))
    divisor = 3 * (9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1)
    x = 2 * root * lon * torch.cos(theta) / divisor
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return torch.stack([x, y], dim=1) * _SCALE / 180


class Waves(nn.Module):
    """Cosines and sines of random projections of a position, ``(N, 2)`` to ``(N, 512)``."""

    b: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", torch.zeros(256, 2))

    def forward(self, places: Tensor) -> Tensor:
        turns = 2 * math.pi * places @ self.b.T
        return torch.cat([turns.cos(), turns.sin()], dim=1)


class LocationEncoder(nn.Module):
    """Positions in degrees ``(N, 2)``, float32, to embeddings ``(N, 512)``: a sum over coarse to fine waves."""

    def __init__(self, scales: int = 3) -> None:
        super().__init__()
        self.scales = scales
        for i in range(scales):
            layers: list[nn.Module] = [Waves()]
            for width in (512, 1024, 1024):
                layers += [nn.Linear(width, 1024), nn.ReLU()]
            part = nn.ModuleDict({"capsule": nn.Sequential(*layers), "head": nn.Sequential(nn.Linear(1024, 512))})
            self.add_module(f"LocEnc{i}", part)

    def forward(self, degrees: Tensor) -> Tensor:
        places = equal_earth(degrees)
        found = torch.zeros(len(places), 512, device=places.device)
        for i in range(self.scales):
            part = self.get_submodule(f"LocEnc{i}")
            found = found + part["head"](part["capsule"](places))  # type: ignore[index]
        return found

    @torch.inference_mode()
    def embed(self, lat: ArrayLike, lon: ArrayLike) -> Tensor:
        """Embeddings of unit length of N positions in degrees, shape ``(N, 512)``."""
        return self.units(torch.from_numpy(np.stack([lat, lon], axis=1)))

    def units(self, degrees: Tensor) -> Tensor:
        """The same of positions ``(N, 2)`` in any precision; it sees them in float32, as its own code has them."""
        return torch.cat([functional.normalize(self(some), dim=1) for some in torch.split(degrees.float(), AT_ONCE)])

    def refined(self, photos: Tensor, degrees: Tensor, reach_km: Tensor, rounds: int) -> Tensor:
        """The likeliest point near each photo's first guess, degrees ``(B, 2)``, float64.

        Each round asks ``SIDE`` x ``SIDE`` points around the best one so far, the first as far as ``reach_km``, each
        further one as far as two of them lay apart before. A round never ends at a less likely point.

        Args:
            photos: embeddings of photos, shape ``(B, 512)``.
            degrees: the first guesses, shape ``(B, 2)``, float64.
            reach_km: how far around them the first round looks, shape ``(B,)``.
        """
        for _ in range(rounds):
            around = _around(degrees, reach_km)
            likeness = (self.units(around.flatten(0, 1)).view(len(photos), SIDE**2, -1) @ photos[:, :, None]).squeeze(2)
            degrees = around[torch.arange(len(around), device=around.device), likeness.argmax(dim=1)]
            reach_km = reach_km * 2 / (SIDE - 1)
        return degrees


def _around(degrees: Tensor, reach_km: Tensor) -> Tensor:
    """A square of points around each, ``(B, SIDE^2, 2)`` in degrees, itself in the middle."""
    steps = torch.linspace(-1, 1, SIDE, dtype=degrees.dtype, device=degrees.device)
    north, east = torch.meshgrid(steps, steps, indexing="ij")
    reach = torch.rad2deg(reach_km / EARTH_RADIUS_KM)[:, None]
    lat = (degrees[:, :1] + reach * north.flatten()).clamp(-90, 90)
    wide = reach / torch.deg2rad(degrees[:, :1]).cos().clamp(min=0.01)
    lon = degrees[:, 1:] + wide * east.flatten()
    return torch.stack([lat, (lon + 180).remainder(360) - 180], dim=2)
