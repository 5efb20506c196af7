"""Heads of public models, as their own code has them: they come with weights and are not trained."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from graticule.config import Head as HeadSettings
from graticule.model.heads import Head, Output
from graticule.model.positions import LocationEncoder

REACH = 1.2  # OSV-5M: an offset may leave its cell by a fifth of the way (configs/model/network/head/hybrid.yaml)


class MatchingHead(nn.Module):
    """Logits by likeness: the cosine of an embedding of the photo with one of each place, times a scale.

    CLIP's scheme (Radford et al., arXiv 2103.00020), with positions as GeoCLIP has it (arXiv 2309.16020) or names as
    StreetCLIP (arXiv 2302.00275). Linear layers with ReLU between them make the embedding.

    Args:
        widths: of the layers; the last is that of the embedding.
        above: how many classes a first question has, such as countries. The logits are then logarithms of the
            probability of a place's country times that of the place among those of its country.
        refine: rounds of a denser gallery around the likeliest place, by GeoCLIP's location encoder, which then comes
            along; its best point is the position. The logits stay those of the gallery.
    """

    has_cells = True
    frame = None
    scale: Tensor
    places: Tensor
    above: Tensor
    parent: Tensor
    degrees: Tensor
    reach_km: Tensor

    def __init__(
        self, num_features: int, num_cells: int, widths: tuple[int, ...], above: int = 0, refine: int = 0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((num_features, *widths)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("places", torch.zeros(num_cells, widths[-1]))
        if above:
            self.register_buffer("above", torch.zeros(above, widths[-1]))
            self.register_buffer("parent", torch.zeros(num_cells, dtype=torch.int64))
        if refine:
            self.locations = LocationEncoder()
            self.register_buffer("degrees", torch.zeros(num_cells, 2, dtype=torch.float64))
            self.register_buffer("reach_km", torch.ones(num_cells, dtype=torch.float64))
        self.num_above, self.refine = above, refine

    def forward(self, features: Tensor) -> Output:
        photo = functional.normalize(self.layers(features), dim=1) * self.scale
        # A gallery is large and photos are few: this way round a processor streams it twice as fast.
        logits = (self.places @ photo.T).T.contiguous()
        if self.refine:
            return Output(logits, self._refined(photo, logits))
        if not self.num_above:
            return Output(logits, None)
        first = torch.log_softmax(photo @ self.above.T, dim=1)[:, self.parent]
        top = logits.max(dim=1, keepdim=True).values
        sums = torch.zeros(len(logits), self.num_above, device=logits.device, dtype=logits.dtype)
        sums.index_add_(1, self.parent, torch.exp(logits - top))
        return Output(first + logits - top - torch.log(sums)[:, self.parent], None)

    def _refined(self, photo: Tensor, logits: Tensor) -> Tensor:
        """Unit vectors ``(B, 3)`` of the likeliest points around the likeliest places."""
        best = logits.argmax(dim=1)
        return _unit(self.locations.refined(photo, self.degrees[best], self.reach_km[best], self.refine))


class OffsetHead(nn.Module):
    """Logits over boxes of latitude and longitude, and an offset within each: the head of OpenStreetView-5M's baseline.

    Astruc et al., "OpenStreetView-5M" (CVPR 2024), section 4, and ``HybridHeadCentroid`` of its code: the likeliest
    box's offset, squeezed by 1.2 tanh, leads from the mean of the box towards its edges.
    """

    has_cells = True
    frame = None
    middle: Tensor
    up: Tensor
    down: Tensor

    def __init__(self, num_features: int, num_cells: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.cells = self._layers((num_features, *widths, num_cells))
        self.offsets = self._layers((num_features, *widths, 2 * num_cells))
        for name in ("middle", "up", "down"):  # latitude and longitude of the mean, and to the edges, degrees
            self.register_buffer(name, torch.zeros(num_cells, 2, dtype=torch.float64))

    @staticmethod
    def _layers(widths: tuple[int, ...]) -> nn.Sequential:
        layers: list[nn.Module] = [nn.LayerNorm(widths[0])]
        for before, after in pairwise(widths[:-1]):
            layers += [nn.Linear(before, after), nn.GroupNorm(4, after), nn.GELU()]
        return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))

    def forward(self, features: Tensor) -> Output:
        logits = self.cells(features)
        best = logits.argmax(dim=1)
        every = self.offsets(features).view(len(features), -1, 2)
        offset = REACH * torch.tanh(every[torch.arange(len(best), device=best.device), best].double())
        degrees = self.middle[best] + offset * torch.where(offset > 0, self.up[best], self.down[best])
        return Output(logits, _unit(degrees))


class NoHead(nn.Module):
    """Of a bundle that is an encoder and answers nothing."""

    has_cells = False
    frame = None

    def forward(self, features: Tensor) -> Output:  # noqa: ARG002
        return Output(None, None)


def _unit(degrees: Tensor) -> Tensor:
    """Unit vectors ``(B, 3)`` of latitudes and longitudes ``(B, 2)``."""
    lat, lon = torch.deg2rad(degrees[:, 0].clamp(-90, 90)), torch.deg2rad(degrees[:, 1].clamp(-180, 180))
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1)


AnyHead = Head | MatchingHead | OffsetHead | NoHead


def imported_head(wanted: HeadSettings, num_features: int, num_cells: int) -> AnyHead | None:
    """The head of a kind that is imported; none of a kind that is trained."""
    match wanted.kind:
        case "matching":
            return MatchingHead(num_features, num_cells, wanted.widths, wanted.above, wanted.refine)
        case "offsets":
            return OffsetHead(num_features, num_cells, wanted.widths)
        case "none":
            return NoHead()
        case _:
            return None
