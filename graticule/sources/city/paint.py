"""Light, lens and brushes for the made-up city: what both its walls and its cars are drawn with.

Colours are display RGB in [0, 1] under white light; light multiplies them and may exceed 1 until the end.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Image = NDArray[np.floating[Any]]  # float32; (...) or, in colour, (3, ...): NumPy likes a long last axis

TILE = 512  # texels a side of the tile of clouds and stains
LAMP = np.array([[1.0], [0.72], [0.38]], np.float32)  # a street lamp, shape (3, 1)


@dataclass(frozen=True, slots=True)
class Light:
    """Hour, weather and season of a drive, as the renderer needs them. Colours have shape ``(3,)``.

    Attributes:
        sun_toward: unit vector to the sun: east, north, up.
        haze_m: distance at which 63 % of the light is lost.
        clouds, night, wet: shares in [0, 1].
        leaves: colour that multiplies the crowns of trees; ``bare`` is how far they have fallen.
    """

    sun_toward: Floats
    sun: Floats
    ambient: Floats
    zenith: Floats
    horizon: Floats
    haze_m: float
    clouds: float
    night: float
    wet: float
    leaves: Floats
    bare: float
    exposure: float
    noise: float


WEATHER = {  # clouds, haze in metres, wet
    "clear": (0.15, 1500.0, 0.0),
    "cloudy": (0.5, 900.0, 0.0),
    "overcast": (0.95, 500.0, 0.0),
    "rain": (1.0, 220.0, 0.55),
    "fog": (1.0, 60.0, 0.15),
}


def light_of(hour: float, weather: str, season: float, exposure: float = 1.0) -> Light:
    """The light at an hour of the day in [0, 24).

    Args:
        weather: a key of ``WEATHER``.
        season: share of the year since midwinter, in [0, 1).
    """
    clouds, haze_m, wet = WEATHER[weather]
    height = 58 * np.sin(np.pi * (hour - 6.2) / 13.4)  # of the sun, degrees; below zero it has set
    up, around = np.radians(height), np.radians(180 + 15 * (hour - 12.9))
    toward = np.array([np.cos(up) * np.sin(around), np.cos(up) * np.cos(around), np.sin(up)])
    day = float(np.interp(height, [-7, 14], [0, 1]))
    gold = float(np.exp(-(((height - 3) / 9) ** 2))) * (1 - clouds)
    grey = clouds**2
    zenith = _mix((0.02, 0.03, 0.08), _mix((0.22, 0.45, 0.85), (0.66, 0.69, 0.73), grey), day)
    horizon = _mix((0.10, 0.09, 0.13), _mix((0.74, 0.84, 0.94), (0.76, 0.78, 0.80), grey), day)
    horizon = _mix(horizon, (1.0, 0.62, 0.36), 0.75 * gold)
    sun = _mix((1.0, 0.93, 0.80), (1.0, 0.58, 0.28), gold) * 0.85 * day * (1 - 0.92 * grey)
    ambient = _mix((0.13, 0.14, 0.21), _mix((0.50, 0.56, 0.66), (0.80, 0.80, 0.80), grey), day)
    ambient = _mix(ambient, (0.62, 0.48, 0.46), 0.4 * gold)
    autumn = float(np.exp(-(((season - 0.83) / 0.07) ** 2)))
    spring = float(np.exp(-(((season - 0.37) / 0.07) ** 2)))
    leaves = _mix(_mix((1.0, 1.0, 1.0), (2.6, 1.25, 0.6), autumn), (1.35, 1.3, 1.0), spring)
    bare = float(np.clip(np.cos(2 * np.pi * season) * 1.6 - 0.5, 0, 0.8))
    return Light(
        toward, sun, ambient, zenith, horizon, haze_m, clouds, 1 - day, wet, leaves, bare,
        exposure * (1.12 + 0.5 * (1 - day)), 0.008 + 0.02 * (1 - day),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Camera:
    """A level camera; ``across`` is metres to the right and ``ahead`` metres forward of it.

    Attributes:
        k: ``across / ahead`` of each column, shape ``(W,)``.
        p: rise over ``ahead`` of each row, top first, shape ``(H,)``.
        pixel: width of a pixel one metre ahead.
    """

    x: float
    y: float
    forward: Floats
    height: float
    k: Image
    p: Image
    pixel: float

    def turn(self, east: NDArray[np.floating], north: NDArray[np.floating]) -> tuple[Image, Image]:
        """A direction on the plan as ``across, ahead``."""
        f, g = self.forward
        return (g * east - f * north).astype(np.float32), (f * east + g * north).astype(np.float32)

    def see(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[Image, Image]:
        """A point on the plan as ``across, ahead``."""
        return self.turn(x - self.x, y - self.y)

    def on_plan(self, across: Image, ahead: Image) -> tuple[Image, Image]:
        """The way back from :meth:`see`."""
        f, g = (np.float32(v) for v in self.forward)
        return np.float32(self.x) + g * across + f * ahead, np.float32(self.y) - f * across + g * ahead


def pulse(at: Image, wide: Image, low: Image | float, high: Image | float) -> Image:
    """Share of ``[at - wide / 2, at + wide / 2]`` in which the fraction of a number lies in [low, high].

    The box-filtered pulse train of Apodaca and Gritz (1999), Advanced RenderMan, chapter 11.
    """
    wide = np.maximum(wide, 1e-4)
    a, b = at - wide / 2, at + wide / 2
    whole_a, whole_b = np.floor(a), np.floor(b)
    low = np.asarray(low, np.float32)
    on = np.maximum(np.asarray(high, np.float32) - low, 0)
    part_a, part_b = np.clip(a - whole_a - low, 0, on), np.clip(b - whole_b - low, 0, on)
    share: Image = ((whole_b - whole_a) * on + part_b - part_a) / wide
    return share


def between(at: Image, wide: Image, low: Image | float, high: Image | float) -> Image:
    """Share of ``[at - wide / 2, at + wide / 2]`` that lies in [low, high]."""
    share: Image = np.clip((np.minimum(at + wide / 2, high) - np.maximum(at - wide / 2, low)) / wide, 0, 1)
    return share


def glyphs(seed: NDArray[np.uint32], along: Image, up: Image, size: Image | float, wide: Image) -> Image:
    """Ink of a row of made-up letters, in [0, 1]: three by five dots each, drawn from the seed.

    They melt into their mean where a pixel covers a dot.
    """
    column, row = along / size * 4, up / size * 6 / 1.35
    letter = np.floor(column / 4)
    dot = np.floor(column % 4) + 3 * np.floor(row % 6)
    bits = (hash_of(seed, letter, np.floor(row / 6)) * 32767).astype(np.int64) | 0b010_000_010_000_101
    ink = (bits >> dot.astype(np.int64) & 1) * (column % 4 < 3) * (row % 6 < 5)
    sharp = np.clip(1.6 - wide / size * 4, 0, 1)
    softened: Image = (0.35 + sharp * (ink - 0.35)).astype(np.float32)
    return softened


def hash_of(seed: NDArray[np.uint32], a: Image, b: Image) -> Image:
    """A number in [0, 1) for each triple; multipliers of MurmurHash3 (Appleby, public domain)."""
    mixed = seed ^ (a.astype(np.int32).astype(np.uint32) * np.uint32(0xCC9E2D51))
    mixed ^= b.astype(np.int32).astype(np.uint32) * np.uint32(0x1B873593)
    mixed = (mixed ^ mixed >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ mixed >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    share: Image = (mixed >> np.uint32(8)).astype(np.float32) / np.float32(2**24)
    return share


def haze(colour: Image, ahead: Image, light: Light) -> Image:
    clear = np.exp(-ahead / light.haze_m)
    fog = column_of(light.horizon).reshape(3, *(1,) * (colour.ndim - 1))
    return blend(fog, colour, clear)


def blend(under: Image, over: Image | float, cover: Image) -> Image:
    """``over`` with the opacity ``cover``, one number a sample, laid upon ``under``."""
    blended: Image = under + cover * (over - under)
    return blended


def _mix(
    a: NDArray[np.floating] | tuple[float, ...], b: NDArray[np.floating] | tuple[float, ...], share: float
) -> Floats:
    return (1 - share) * np.asarray(a, np.float64) + share * np.asarray(b, np.float64)


def column_of(colour: NDArray[np.floating] | tuple[float, ...]) -> Image:
    """One colour, ready to spread over samples: shape ``(3, 1)``."""
    return np.asarray(colour, np.float32)[:, None]


def noise(x: Image, y: Image) -> Image:
    """Soft noise at points of a plane, even over [0, 1]; it repeats every ``TILE``."""
    value: Image = tile().take((y.astype(np.int64) % TILE) * TILE + x.astype(np.int64) % TILE)
    return value


@lru_cache(maxsize=1)
def tile() -> Image:
    """Soft noise that repeats, shape ``(TILE, TILE)``, spread evenly over [0, 1]."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE), indexing="ij"))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) / frequency**1.6)
    ranks = noise.ravel().argsort().argsort().reshape(TILE, TILE)
    return (ranks / ranks.size).astype(np.float32)
