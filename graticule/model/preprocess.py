"""From a photo's bytes to the tensor a model eats. It travels with the weights; training and serving share it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from graticule.choices import Interpolation, Resize
from graticule.photos.images import decode

STRIDE = 16  # the patch of most transformers; convolutions take any side


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Resizing of one photo, and the scaling that the model applies to a batch.

    Attributes:
        resize: ``squash`` to ``height`` x ``width``, or ``fit``: own aspect, longest side at most ``longest``; or
            ``crop``: the shorter side to its size, then the middle of ``height`` x ``width``.
        mean, std: of RGB in [0, 1].
    """

    resize: Resize
    height: int
    width: int
    longest: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bilinear"

    def shape_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width that a photo of this size is resized to; ``fit`` never enlarges a side."""
        if self.resize != "fit":
            return self.height, self.width
        scale = min(1.0, self.longest / max(height, width))
        return _to_stride(height * scale), _to_stride(width * scale)

    def __call__(self, data: bytes) -> Tensor:
        """Decode and resize one photo: uint8, shape ``(3, height, width)``.

        Raises:
            BadPhotoError: the bytes are not a photo we can read.
        """
        shortest = min(self.height, self.width) if self.resize != "fit" else self.longest
        rgb = torch.from_numpy(np.require(decode(data, shortest_side=shortest), requirements="W")).permute(2, 0, 1)
        shape = self._whole(rgb.shape[1], rgb.shape[2]) if self.resize == "crop" else self.shape_for(*rgb.shape[1:])
        if shape != tuple(rgb.shape[1:]):
            rgb = vision.resize(rgb, list(shape), vision.InterpolationMode(self.interpolation), antialias=True)
        if self.resize == "crop":
            rgb = vision.center_crop(rgb, [self.height, self.width])
        return rgb.contiguous()

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        """Size of the whole photo of which ``crop`` keeps the middle: CLIP rounds its longer side down."""
        scale = max(self.height / height, self.width / width)
        return max(self.height, int(height * scale)), max(self.width, int(width * scale))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Preprocess":
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()}
        return cls(**values)


class Augment(nn.Module):
    """Random changes of a training batch, on whatever device it is. No flips (driving side, signs).

    Args:
        crop: up to this share of each side is cut away at random.
        light: brightness, contrast and saturation vary by up to this share.
        erase: a random rectangle of up to this share of the frame is greyed, as a passing car would.
    """

    def __init__(self, crop: float, light: float, erase: float) -> None:
        super().__init__()
        self.crop, self.light, self.erase = crop, light, erase

    def forward(self, images: Tensor) -> Tensor:
        """Change float images in [0, 1] of shape ``(B, 3, H, W)``; each photo differently."""
        with torch.autocast(images.device.type, enabled=False):  # bfloat16 would shift a photo by half a pixel
            return self._changed(images)

    def _changed(self, images: Tensor) -> Tensor:
        batch, device = len(images), images.device

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.empty(batch, *shape, device=device).uniform_(low, high)

        if self.crop:
            size = uniform(1 - self.crop, 1, 2)
            center = (1 - size) * uniform(-1, 1, 2)
            theta = torch.zeros(batch, 2, 3, device=device)
            theta[:, 0, 0], theta[:, 1, 1] = size[:, 0], size[:, 1]
            theta[:, :, 2] = center
            grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
            images = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        if self.light:
            gain, contrast, color = uniform(1 - self.light, 1 + self.light, 3, 1, 1, 1).unbind(1)
            gray = images.mean(dim=1, keepdim=True)
            images = gray + (images - gray) * color
            level = images.mean(dim=(1, 2, 3), keepdim=True)
            images = ((images - level) * contrast + level * gain).clamp(0, 1)
        if self.erase:
            height, width = images.shape[-2:]
            rows = torch.arange(height, device=device).view(1, 1, height, 1) / height
            columns = torch.arange(width, device=device).view(1, 1, 1, width) / width
            side = self.erase**0.5 * uniform(0, 1, 2, 1, 1, 1)
            corner = (1 - side) * uniform(0, 1, 2, 1, 1, 1)
            in_rows = (rows >= corner[:, 0]) & (rows < corner[:, 0] + side[:, 0])
            in_columns = (columns >= corner[:, 1]) & (columns < corner[:, 1] + side[:, 1])
            images = images.masked_fill(in_rows & in_columns, 0.5)
        return images


def _to_stride(side: float) -> int:
    return max(STRIDE, round(side / STRIDE) * STRIDE)
