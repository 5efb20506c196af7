"""What a camera sees of the made-up city: one column of pixels is one ray over the plan.

Walls stand upright and the camera is held level, so every picture column meets the same walls from top to
bottom, as in the games of 1992. Facades are formulas of metres along and up the wall. Their repeating
parts are averaged over a pixel exactly (a pulse train has a simple integral), which keeps far windows from
shimmering; the slanted edges of roofs and roads are smoothed by two samples a row.

Colours are display RGB in [0, 1] under white light; light multiplies them and may exceed 1 until the end.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from graticule.sources import city_scene as scene

Floats = NDArray[np.float64]
Image = NDArray[np.float32]  # (...) or, in colour, (3, ...): NumPy is quick where the last axis is long
Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]
Table = NDArray[np.void]

HALF_VIEW = float(np.tan(np.radians(41)))  # half the width of the picture one metre ahead: 82 degrees across
CAMERA_M = 2.3  # on the roof of a car
NEAR_M, CARS_TO_M, TREES_TO_M = 0.4, 60.0, 110.0
BLOCKS_AROUND, STREETS_AROUND = 3, 1
TILE = 512  # texels a side of the tile of clouds and stains
ASPHALT, PAVING, PAINT = (0.27, 0.27, 0.28), (0.56, 0.54, 0.51), (0.85, 0.85, 0.82)
CROWN, BARK, TYRE, CAR_GLASS = (0.26, 0.42, 0.16), (0.23, 0.18, 0.14), (0.05, 0.05, 0.05), (0.10, 0.13, 0.16)
LAMP = np.array([1.0, 0.72, 0.38], np.float32)


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
        p: rise over ``ahead`` of each sample row, top first, shape ``(2 * H,)``: two samples a row.
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


def render(
    city: scene.City, shot: scene.Shot, light: Light, rng: np.random.Generator, width: int, height: int
) -> Pixels:
    """Draw one frame, shape ``(height, width, 3)``, uint8.

    Args:
        rng: for what differs from frame to frame: jitter, moving cars, sensor noise.
    """
    camera = _camera(shot, rng, width, height)
    canvas = np.empty((3, 2 * height, width), np.float32)
    depth = np.full((2 * height, width), 1e6, np.float32)
    hits = _hits(camera, *_walls_around(city, shot.nodes[0]))
    layer = np.zeros(depth.shape, np.int64)
    for top in hits.skyline.T:
        layer += camera.p[:, None] > top  # how many walls each sample looks over
    below = camera.p[:, None] < -camera.height / hits.ahead[:, 0]
    is_wall = (layer < hits.skyline.shape[1]) & ~below
    is_ground = below & (camera.p[:, None] < 0)
    is_sky = ~is_wall & ~is_ground

    canvas[:, is_sky] = _sky(camera, light, *np.nonzero(is_sky), drift=rng.random(2))
    canvas[:, is_ground], depth[is_ground] = _ground(city, camera, light, shot, *np.nonzero(is_ground))
    rows, columns = np.nonzero(is_wall)
    canvas[:, is_wall], depth[is_wall] = _walls(camera, light, hits, rows, columns, layer[is_wall])
    _things(canvas, depth, camera, light, city, shot, rng)
    if light.wet:
        _mirror(canvas, camera, light.wet, is_ground)
    return _develop(canvas.reshape(3, height, 2, width).mean(axis=2), light, rng)


def _camera(shot: scene.Shot, rng: np.random.Generator, width: int, height: int) -> Camera:
    heading = np.radians(shot.heading)
    pixel = 2 * HALF_VIEW / width
    horizon = height * (0.56 + rng.normal(0, 0.012))  # a little below the middle: houses are above
    k = (np.arange(width) + 0.5 - width / 2) * pixel
    p = (horizon - (np.arange(2 * height) + 0.5) / 2) * pixel
    forward = np.array([np.sin(heading), np.cos(heading)])
    tall = CAMERA_M + rng.normal(0, 0.05)
    return Camera(shot.x, shot.y, forward, tall, k.astype(np.float32), p.astype(np.float32), pixel)


@dataclass(frozen=True, slots=True)
class Hits:
    """Walls that each column can see, nearest first: tables of shape ``(W, K)``, padded at the end.

    Attributes:
        skyline: rise over ``ahead`` of the tops of the walls so far, minus infinity where a column has none.
        ahead: distance of each wall along the camera axis, metres.
        along: metres from the left end of the wall; ``stretch``: how many of them one pixel covers.
        wall, house: rows of ``walls`` and ``houses``.
    """

    skyline: Image
    ahead: Image
    along: Image
    stretch: Image
    wall: NDArray[np.int64]
    walls: NDArray[np.void]
    houses: NDArray[np.void]


@lru_cache(maxsize=4)
def _walls_around(city: scene.City, node: scene.Node) -> tuple[Table, Table]:
    """Walls and houses that may be in sight; a wall's ``house`` is a row of the second table."""
    blocks = [city.block(*at) for at in city.blocks_near(node, BLOCKS_AROUND)]
    walls = np.concatenate([block.walls for block in blocks])
    firsts = np.cumsum([0] + [len(block.houses) for block in blocks[:-1]])
    walls["house"] += np.repeat(firsts, [len(block.walls) for block in blocks]).astype(np.int32)
    return walls, np.concatenate([block.houses for block in blocks])


def _hits(camera: Camera, walls: Table, houses: Table) -> Hits:
    """Cross all rays with all walls, and keep for each ray the walls that rise above nearer ones."""
    across, ahead = camera.see(walls["x"], walls["y"])
    right, away = camera.turn(walls["east"], walls["north"])
    far_across, far_ahead = across + walls["length"] * right, ahead + walls["length"] * away
    edge = HALF_VIEW * 1.02
    seen = np.maximum(ahead, far_ahead) > NEAR_M
    seen &= np.minimum(across - edge * ahead, far_across - edge * far_ahead) < 0
    seen &= np.maximum(across + edge * ahead, far_across + edge * far_ahead) > 0
    walls, across, ahead, right, away = (a[seen] for a in (walls, across, ahead, right, away))

    k = camera.k[:, None]
    # The ray t * (k, 1) meets across + s * right, ahead + s * away.
    facing = k * away - right
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (across * away - ahead * right) / facing
        s = (across - k * ahead) / facing
    column, wall = np.nonzero((t > NEAR_M) & (s >= 0) & (s <= walls["length"]))
    order = np.lexsort((t[column, wall], column))
    column, wall = column[order], wall[order]
    top = (walls["height"][wall] - camera.height) / t[column, wall]
    # Ranks in each column turn the list into a table, where a running maximum is the skyline so far.
    for _ in range(2):  # once to find what is hidden, once without it
        rank = np.arange(len(column)) - np.searchsorted(column, column)
        skyline = np.full((len(k), max(1, rank.max(initial=0) + 1)), -np.inf, np.float32)
        skyline[column, rank] = top
        before = np.maximum.accumulate(skyline, axis=1)
        over = (rank == 0) | (top > before[column, rank - 1])
        column, wall, top = column[over], wall[over], top[over]
    skyline = np.maximum.accumulate(skyline, axis=1)  # and so over the padding
    table = np.zeros(skyline.shape, np.int64)
    table[column, rank] = wall
    ahead_of = np.full(skyline.shape, 1e6, np.float32)
    ahead_of[column, rank] = t[column, wall]
    pick = np.arange(len(k))[:, None], table
    stretch = ahead_of * camera.pixel / np.maximum(np.abs(facing[pick]), 0.02)
    return Hits(skyline, ahead_of, s[pick], stretch, table, walls, houses)


def _walls(
    camera: Camera, light: Light, hits: Hits, rows: Rows, columns: Rows, layer: Rows
) -> tuple[Image, Image]:
    """Colour and depth of samples on walls, shapes ``(3, N)`` and ``(N,)``."""
    at = columns, layer
    wall = hits.walls[hits.wall]
    house = hits.houses[wall["house"]]  # what belongs to a column and wall, shape (W, K), is looked up there once
    length, half = wall["length"], house["pane"] / 2
    bays = np.maximum(np.rint(length / house["bay"]), 1)
    bay, bay_wide = hits.along / length * bays, hits.stretch / length * bays
    in_pane = _pulse(bay, bay_wide, 0.5 - half, 0.5 + half)[at]
    in_frame = _pulse(bay, bay_wide, 0.5 - half - house["frame"], 0.5 + half + house["frame"])[at]
    in_pilaster = _pulse(bay + house["pilaster"] / 2, bay_wide, 0, house["pilaster"])[at]
    lit = _rgb(_light_on(light, wall)[at])

    ahead, along, wide = hits.ahead[at], hits.along[at], hits.stretch[at]
    up, tall = camera.height + camera.p[rows] * ahead, ahead * (camera.pixel / 2)
    of = {name: house[name][at] for name in ("id", "ground", "storey", "height", "sill", "lintel", "frame")}
    front = (wall["kind"] == scene.FRONT)[at]
    floor, floor_tall = (up - of["ground"]) / of["storey"], tall / of["storey"]
    upstairs = front & (floor > 0) & (up < of["height"] - 0.7)
    framed = _pulse(floor, floor_tall, of["sill"] - of["frame"], of["lintel"] + of["frame"])
    band = house["band"][at]
    trim = np.maximum(_pulse(floor + band / 2, floor_tall, 0, band), in_pilaster) * front
    trim = np.maximum(trim, in_frame * framed * upstairs)
    trim[up > of["height"] - 0.6] = 1
    pane = in_pane * _pulse(floor, floor_tall, of["sill"], of["lintel"]) * upstairs

    tile = _tile()
    stain = tile[(up * 9 + of["id"] % 509).astype(np.int64) % TILE, (along * 9).astype(np.int64) % TILE]
    course = house["courses"][at] * (_pulse(up * 2.5, tall * 2.5, 0, 0.3) - 0.3)
    colour = _blend(_rgb(house["wall"][at]) * (0.86 + 0.26 * stain - course), _rgb(house["trim"][at]), trim)
    window = _hash(of["id"], np.floor(bay[at]), np.floor(floor))
    glass = _rgb(house["glass"][at]) * (0.7 + 0.9 * window) + 0.16 * _column(light.zenith)
    colour = _blend(colour, glass, pane)
    glow = pane * np.clip((window - 0.62) * 9, 0, 1)  # somebody is at home behind a third of the windows

    street = np.flatnonzero(front & (up < of["ground"]))
    mine = columns[street], layer[street]
    _ground_floor(colour, glow, street, house[mine], up[street], along[street], wide[street], length[mine])
    poster = (up > of["ground"] + 0.5) & (up < np.minimum(of["ground"] + 6, of["height"] - 1.2))
    poster &= (np.abs(along / length[at] - 0.5) < 0.36) & (house["mural"][at] > 0)
    painted = np.flatnonzero(poster)
    mine = columns[painted], layer[painted]
    ink = _glyphs(of["id"][painted], along[painted], up[painted] - of["ground"][painted], 2.1, wide[painted])
    colour[:, painted] = _blend(_rgb(house["sign"][mine]), _rgb(house["ink"][mine]), ink)
    glow[painted] = 0.25

    lit *= 0.72 + 0.28 * np.clip(up / 5, 0, 1)  # less sky is seen from the foot of a wall
    colour = colour * lit + glow * light.night * LAMP[:, None] * (0.5 + 0.5 * colour)
    return _haze(colour, ahead, light), ahead


def _ground_floor(
    colour: Image, glow: Image, rows: Rows, house: Table, up: Image, along: Image, wide: Image, length: Image
) -> None:
    """Paint shops with a sign and perhaps an awning, or doors and windows of flats, over samples ``rows``."""
    shop = house["shop"] > 0
    doors = np.maximum(np.rint(length / 3.4), 1) / length
    window = _pulse(along * doors, wide * doors, np.where(shop, 0.07, 0.28), np.where(shop, 0.93, 0.72))
    window = window * (up > np.where(shop, 0.5, 1.1)) * (up < 2.7)
    which = _hash(house["id"], np.floor(along * doors), np.float32(7))
    is_door = ~shop & (which > 0.6) & (up < 2.5)
    inside = _rgb(house["glass"]) + 0.25 * which * shop * _rgb(house["awning"])
    painted = _blend(np.where(shop, 0.8 * _rgb(house["trim"]), 0.85 * _rgb(house["wall"])), inside, window)
    painted = np.where(is_door & (window > 0.5), 0.7 * _rgb(house["ink"]), painted)
    painted[:, up < 0.35] *= 0.6
    shine = window * np.where(shop, 0.8, 0.35 * (which > 0.4))

    sign = shop & (up > house["ground"] - 1.25) & (up < house["ground"] - 0.1)
    ink = _glyphs(house["id"], along, up - house["ground"] + 1.2, house["glyph"] * 0.75, wide)
    margin = np.minimum(along, length - along) > 0.8
    painted = np.where(sign, _blend(_rgb(house["sign"]), _rgb(house["ink"]), ink * margin), painted)
    awning = shop & (house["has_awning"] > 0) & (up > 2.3) & (up < house["ground"] - 1.25)
    stripe = _pulse(along, wide, 0, 0.5)
    painted = np.where(awning, _blend(_rgb(house["awning"]), _column((0.93, 0.92, 0.88)), stripe), painted)
    colour[:, rows] = painted
    glow[rows] = np.where(sign, 0.55, np.where(awning, 0.1, shine))


def _light_on(light: Light, wall: Table) -> Image:
    """Light that falls on walls, shape ``(..., 3)``: sky, sun, and street lamps by night."""
    toward_street = np.stack([wall["north"], -wall["east"]], axis=-1)
    sun = np.clip(toward_street @ light.sun_toward[:2], 0, 1)
    sky = 0.86 + 0.14 * toward_street @ light.sun_toward[:2]
    lit = sky[..., None] * light.ambient + sun[..., None] * light.sun
    return (lit + 0.18 * light.night * LAMP).astype(np.float32)


def _ground(
    city: scene.City, camera: Camera, light: Light, shot: scene.Shot, rows: Rows, columns: Rows
) -> tuple[Image, Image]:
    """Colour and depth of samples on roads and pavements, shapes ``(3, N)`` and ``(N,)``."""
    ahead = -camera.height / camera.p[rows]
    across = camera.k[columns] * ahead
    wide, deep = ahead * camera.pixel, ahead**2 * (camera.pixel / camera.height / 2)  # metres a sample covers
    road, mark = np.zeros_like(ahead), np.zeros_like(ahead)
    ends, halves = city.streets_near(shot.nodes[0], STREETS_AROUND)
    halves = halves.astype(np.float32)
    from_across, from_ahead = camera.see(ends[:, 0, 0], ends[:, 0, 1])
    to_across, to_ahead = camera.see(ends[:, 1, 0], ends[:, 1, 1])
    for a, b, half in zip(
        np.stack([from_across, from_ahead], 1), np.stack([to_across, to_ahead], 1), halves, strict=True
    ):
        if max(a[1], b[1]) < -half:
            continue
        length = np.hypot(*(b - a))
        e, f = (b - a) / length
        near = np.flatnonzero(
            (ahead > min(a[1], b[1]) - half) & (ahead < max(a[1], b[1]) + half)
            & (across > min(a[0], b[0]) - half) & (across < max(a[0], b[0]) + half)
        )  # fmt: skip
        if not len(near):
            continue
        x, y, w, d = across[near] - a[0], ahead[near] - a[1], wide[near], deep[near]
        side, on = np.abs(f * x - e * y), e * x + f * y
        side_wide, on_wide = abs(f) * w + abs(e) * d, abs(e) * w + abs(f) * d
        past = np.maximum(np.maximum(-on, on - length), 0)
        road[near] = np.maximum(road[near], np.clip(0.5 + (half - np.hypot(side, past)) / side_wide, 0, 1))
        crossing = np.minimum(on, length - on)  # metres from the nearer crossing
        dash = _pulse(on / 6, on_wide / 6, 0, 0.5) if half < 7 else np.float32(1)
        line = np.clip(0.5 + (0.09 - np.abs(side - 0.0)) / side_wide, 0, 1) * dash * (crossing > half + 7)
        kerb_line = np.clip(0.5 + (0.07 - np.abs(side - half + 2.3)) / side_wide, 0, 1) * (crossing > half + 7)
        stripes = _pulse(side / 1.1 + 0.25, side_wide / 1.1, 0, 0.5) * (side < half - 0.3)
        stripes = stripes * (crossing > 9.0) * (crossing < 12.0)
        mark[near] = np.maximum(mark[near], np.maximum(np.maximum(line, kerb_line), stripes))
    x, y = camera.on_plan(across, ahead)
    stain = _tile()[(y * 7).astype(np.int64) % TILE, (x * 7).astype(np.int64) % TILE]
    slab = np.maximum(_pulse(x / 1.2, wide / 1.2, 0, 0.06), _pulse(y / 1.2, deep / 1.2, 0, 0.06))
    colour = _blend(_column(PAVING) * (1 - 0.3 * slab), _column(ASPHALT), road)
    colour = _blend(colour * (0.8 + 0.4 * stain), _column(PAINT), mark * road * (0.6 + 0.4 * stain))
    lit = light.ambient * 0.9 + light.sun * max(light.sun_toward[2], 0) * 0.55 + 0.2 * light.night * LAMP
    colour *= _column(lit * (1 - 0.35 * light.wet))
    return _haze(colour, ahead, light), ahead


def _sky(camera: Camera, light: Light, rows: Rows, columns: Rows, drift: Floats) -> Image:
    """Colour of samples in the sky, shape ``(3, N)``: a gradient, a layer of clouds, the glow of the sun."""
    k, p = camera.k[columns], np.maximum(camera.p[rows], 0)
    rise = p / np.hypot(1, k)
    colour = _blend(_column(light.horizon), _column(light.zenith), 1 - np.exp(-2.6 * rise))
    far = 22 / (rise + 0.16) / np.hypot(1, k)  # to the layer of clouds, which bends down to the horizon
    east, north = camera.on_plan(k * far, far)
    tile = _tile()
    u = east - np.float32(camera.x - drift[0] * TILE)
    v = north - np.float32(camera.y - drift[1] * TILE)
    puff = 0.65 * tile[v.astype(np.int64) % TILE, u.astype(np.int64) % TILE]
    puff += 0.35 * tile[(3.1 * v).astype(np.int64) % TILE, (3.1 * u).astype(np.int64) % TILE]
    cover = np.clip((puff - 1 + light.clouds * 0.9 + 0.12) * 5, 0, 1) * (0.85 if light.clouds < 0.9 else 0.5)
    white = _column(light.ambient * 1.1 + light.sun * 0.35)
    colour = _blend(colour, white * (1.05 - 0.3 * puff), cover)
    across, ahead = camera.turn(light.sun_toward[0], light.sun_toward[1])
    cosine = (k * across + ahead + p * np.float32(light.sun_toward[2])) / np.sqrt(1 + k**2 + p**2)
    glow = np.clip(cosine, 0, 1) ** 90 * np.float32(0.7) + (cosine > 0.9993) * np.float32(2)
    return colour + glow * (1 - 0.6 * cover) * _column(light.sun)


def _things(
    canvas: Image, depth: Image, camera: Camera, light: Light, city: scene.City, shot: scene.Shot,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Draw trees and cars over the picture, the farthest first."""
    near = city.blocks_near(shot.nodes[0], 2)
    trees = np.concatenate([city.block(*at).trees for at in near])
    cars = np.concatenate([
        _moving(city, shot, rng),
        *(city.parked(*at, shot.drive) for at in city.blocks_near(shot.nodes[0], 1)),
    ])  # fmt: skip
    found = [
        (float(ahead), draw, row)
        for table, draw, reach in ((trees, _tree, TREES_TO_M), (cars, _car, CARS_TO_M))
        for across, ahead, row in zip(*camera.see(table["x"], table["y"]), table, strict=True)
        if -2 < ahead < reach and abs(across) < HALF_VIEW * ahead + 6
    ]
    for _, draw, row in sorted(found, key=lambda thing: -thing[0]):
        draw(canvas, depth, camera, light, row)


def _moving(city: scene.City, shot: scene.Shot, rng: np.random.Generator) -> Table:
    """Traffic on the camera's own street: ahead in its lane and towards it in the other."""
    a, b = (city.nodes[node] for node in shot.nodes)
    direction = (b - a) / np.hypot(*(b - a))
    heading = np.radians(shot.heading)
    if direction @ (np.sin(heading), np.cos(heading)) < 0:
        direction = -direction
    right = np.array([direction[1], -direction[0]])
    at = np.array([shot.x, shot.y])
    away = np.concatenate([rng.uniform(7, 50, rng.poisson(0.7)), rng.uniform(6, 60, rng.poisson(1.0))])
    lane = np.where(np.arange(len(away)) < rng.integers(len(away) + 1), 0.0, -3.8)
    xy = at + away[:, None] * direction + (lane + rng.normal(0, 0.2, len(away)))[:, None] * right
    return scene.cars(rng, xy, direction, trucks=0.15)


def _tree(canvas: Image, depth: Image, camera: Camera, light: Light, tree: np.void) -> None:
    across, ahead = (float(v) for v in camera.see(tree["x"], tree["y"]))
    if ahead < 1.5:
        return
    middle, radius = tree["height"] - tree["radius"], tree["radius"]
    lit = light.ambient + 0.45 * light.sun + 0.12 * light.night * LAMP
    trunk = _window(camera, across, 0.16, 0.0, middle, ahead)
    if trunk:
        some, _, up = trunk
        shown = (depth[some] > ahead) & (up[:, None] >= 0)
        bark = _haze(_column(BARK * lit), np.float32([ahead]), light)[..., None]
        canvas[:, *some] = np.where(shown, bark, canvas[:, *some])
    crown = _window(camera, across, radius, middle - 1.25 * radius, middle + 1.25 * radius, ahead)
    if crown:
        some, over, up = crown
        shapes, shades = _crowns()
        u = np.clip((over / radius + 1) * 32, 0, 63).astype(np.int64)
        v = np.clip((1 - (up - middle) / radius / 1.25) * 32, 0, 63).astype(np.int64)
        cover = shapes[tree["shape"]][v[:, None], u] * (1 - light.bare) * (depth[some] > ahead)
        shade = shades[tree["shape"]][v[:, None], u]
        hue = np.float32([1 + 0.16 * tree["hue"], 1, 1 - 0.1 * tree["hue"]])
        leaf = _column(CROWN * hue * light.leaves * lit)[..., None] * shade
        canvas[:, *some] = _blend(canvas[:, *some], _haze(leaf, np.float32(ahead), light), cover)


def _window(
    camera: Camera, across: float, half: float, low: float, high: float, ahead: float
) -> tuple[tuple[slice, slice], Image, Image] | None:
    """Rows and columns of an upright rectangle; where they lie to the side of its middle, and above ground."""
    over, up = camera.k * ahead - across, camera.height + camera.p * ahead
    columns = np.flatnonzero(np.abs(over) < max(half, camera.pixel * ahead / 2))
    rows = np.flatnonzero((up > low) & (up < high))
    if not len(columns) or not len(rows):
        return None
    some = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return some, over[some[1]], up[some[0]]


def _car(canvas: Image, depth: Image, camera: Camera, light: Light, car: np.void) -> None:
    """A car is two boxes, a van or a bus one: body below, cabin above."""
    tall = car["height"] > 2
    cabin = 0.25 * car["length"] if not tall else 0.5 * car["length"]
    parts = [(0.0, car["height"] if tall else 0.95, 0.5 * car["length"], 0.0)]
    parts += [] if tall else [(0.95, float(car["height"]), cabin, -0.08 * car["length"])]
    for low, high, half, shift in parts:
        _box(canvas, depth, camera, light, car, low, high, half, shift)


def _box(
    canvas: Image, depth: Image, camera: Camera, light: Light, car: np.void, low: float, high: float,
    half: float, shift: float,
) -> None:  # fmt: skip
    """Draw the two visible sides and the top of a box that stands turned on the road."""
    x, y = car["x"] + shift * car["east"], car["y"] + shift * car["north"]
    across, ahead = camera.see(x, y)
    e, f = camera.turn(car["east"], car["north"])
    size = np.array([half, car["width"] / 2 * (1.0 if low == 0 else 0.9)], np.float32)
    # The ray t * (k, 1), in lengths along the car and to its left: where is it in both slabs at once?
    step = np.stack([camera.k * e + f, e - camera.k * f])
    start = np.array([across * e + ahead * f, ahead * e - across * f], np.float32)[:, None]
    step = np.where(np.abs(step) < 1e-6, 1e-6, step)
    enter, leave = (start - np.sign(step) * size[:, None]) / step, (start + np.sign(step) * size[:, None]) / step
    first, last = enter.max(axis=0), leave.min(axis=0)
    columns = np.flatnonzero((first < last) & (first > 0.8))
    if not len(columns):
        return
    t, out = first[columns], last[columns]
    highest = ((high - camera.height) / (t if high > camera.height else out)).max()
    lowest = (low - camera.height) / t.min()
    rows = np.flatnonzero((camera.p < highest) & (camera.p > lowest))
    if not len(rows):
        return
    some = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    t, out, rise = first[some[1]], last[some[1]], camera.p[some[0], None]
    up = camera.height + rise * t
    hit = (t < out) & (t > 0.8) & (depth[some] > t)
    on_side = hit & (up >= low) & (up <= high)
    on_top = hit & (up > high) & (camera.height + rise * out < high)
    is_end = enter[0, some[1]] > enter[1, some[1]]  # front or back rather than a flank
    along = (step[0, some[1]] * t - start[0]) / half  # -1 at the back, 1 at the front
    beside = (step[1, some[1]] * t - start[1]) / size[1]
    paint = car["paint"][:, None, None]
    side = np.broadcast_to(paint * np.where(is_end, np.float32(0.8), np.float32(1)), (3, *up.shape)).copy()
    glass_low, glass_high = (high - 1.15, high - 0.35) if high > 2 else (max(low, 0.96), high - 0.1)
    glazed = (up > glass_low) & (up < glass_high) & (np.abs(np.where(is_end, beside, along)) < 0.88)
    side[:, glazed] = _column(CAR_GLASS)
    lit = _column(light.ambient + 0.35 * light.sun + 0.15 * light.night * LAMP)[..., None]
    top = (0.8 * paint + 0.18) * _column(light.ambient * 1.1 + light.sun * 0.6)[..., None]
    if low == 0:
        wheel = (np.abs(along) - 0.62) * half
        side[:, (~is_end & (wheel**2 + (up - 0.33) ** 2 < 0.115)) | (up < 0.22)] = _column(TYRE)
        lamp = is_end & (np.abs(np.abs(beside) - 0.78) < 0.16) & (np.abs(up - 0.68) < 0.1)
        lamps = np.where(along > 0, _column((0.95, 0.93, 0.85)), _column((0.7, 0.05, 0.05)))[:, None]
        side = np.where(lamp, lamps, side)
        lit = np.maximum(lit, lamp * np.float32(1.3 * light.night))
    colour = _haze(np.where(on_top, top, side * lit), t, light)
    canvas[:, *some] = np.where(on_side | on_top, colour, canvas[:, *some])


def _mirror(canvas: Image, camera: Camera, wet: float, is_ground: NDArray[np.bool_]) -> None:
    """A wet road shows the picture above the horizon upside down, the more the flatter it is seen."""
    rows = np.flatnonzero(camera.p < 0)
    upside_down = np.clip(2 * rows[0] - rows - 1, 0, len(camera.p) - 1)
    share = 0.8 * wet * np.exp(4 * camera.p[rows])[:, None] * is_ground[rows]
    canvas[:, rows] = _blend(canvas[:, rows], canvas[:, upside_down], share)


def _develop(seen: Image, light: Light, rng: np.random.Generator) -> Pixels:
    """Exposure, white balance, sensor noise and a soft shoulder; from shape ``(3, H, W)`` to ``(H, W, 3)``."""
    gain = light.exposure * rng.uniform(0.92, 1.08) * (1 + rng.normal(0, 0.02, 3))
    seen = seen * _column(gain)[..., None]
    seen += rng.standard_normal(seen.shape[1:], np.float32) * np.float32(light.noise)
    # Straight up to 0.75, then bent so that bright things keep some of their colour.
    seen = np.minimum(seen, 0.75) + 0.25 * (1 - np.exp(-3 * np.maximum(seen - 0.75, 0)))
    return np.ascontiguousarray((np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _pulse(at: Image, wide: Image, low: Image | float, high: Image | float) -> Image:
    """Share of ``[at - wide / 2, at + wide / 2]`` in which the fraction of a number lies in [low, high].

    The box-filtered pulse train of Apodaca and Gritz (1999), Advanced RenderMan, chapter 11.
    """
    wide = np.maximum(wide, 1e-4)
    a, b = at - wide / 2, at + wide / 2
    whole_a, whole_b = np.floor(a), np.floor(b)
    low, on = np.float32(low), np.maximum(np.float32(high) - np.float32(low), 0)
    part_a, part_b = np.clip(a - whole_a - low, 0, on), np.clip(b - whole_b - low, 0, on)
    share: Image = ((whole_b - whole_a) * on + part_b - part_a) / wide
    return share


def _glyphs(
    seed: NDArray[np.uint32], along: Image, up: Image, size: Image | float, wide: Image
) -> Image:
    """Ink of a row of made-up letters, in [0, 1]: three by five dots each, drawn from the seed.

    They melt into their mean where a pixel covers a dot.
    """
    column, row = along / size * 4, up / size * 6 / 1.35
    letter = np.floor(column / 4)
    dot = np.floor(column % 4) + 3 * np.floor(row % 6)
    bits = (_hash(seed, letter, np.floor(row / 6)) * 32767).astype(np.int64) | 0b010_000_010_000_101
    ink = (bits >> dot.astype(np.int64) & 1) * (column % 4 < 3) * (row % 6 < 5)
    sharp = np.clip(1.6 - wide / size * 4, 0, 1)
    return (0.35 + sharp * (ink - 0.35)).astype(np.float32)


def _hash(seed: NDArray[np.uint32], a: Image, b: Image) -> Image:
    """A number in [0, 1) for each triple; multipliers of MurmurHash3 (Appleby, public domain)."""
    mixed = seed ^ (a.astype(np.int32).astype(np.uint32) * np.uint32(0xCC9E2D51))
    mixed ^= b.astype(np.int32).astype(np.uint32) * np.uint32(0x1B873593)
    mixed = (mixed ^ mixed >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    mixed = (mixed ^ mixed >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    return (mixed >> np.uint32(8)).astype(np.float32) / np.float32(2**24)


def _haze(colour: Image, ahead: Image, light: Light) -> Image:
    clear = np.exp(-ahead / np.float32(light.haze_m))
    fog = _column(light.horizon).reshape(3, *(1,) * (colour.ndim - 1))
    return _blend(fog, colour, clear)


def _blend(under: Image, over: Image, cover: Image) -> Image:
    """``over`` with the opacity ``cover``, one number a sample, laid upon ``under``."""
    blended: Image = under + cover * (over - under)
    return blended


def _column(colour: NDArray[np.floating] | tuple[float, ...]) -> Image:
    """One colour, ready to spread over samples: shape ``(3, 1)``."""
    return np.float32(colour)[:, None]


def _rgb(colours: Image) -> Image:
    """Colours of shape ``(N, 3)`` as ``(3, N)``."""
    return np.ascontiguousarray(colours.T)


def _mix(a: NDArray[np.floating] | tuple[float, ...], b: NDArray[np.floating] | tuple[float, ...], share: float) -> Floats:
    return (1 - share) * np.asarray(a, np.float64) + share * np.asarray(b, np.float64)


@lru_cache(maxsize=1)
def _tile() -> Image:
    """Soft noise that repeats, shape ``(TILE, TILE)``, spread evenly over [0, 1]."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE), indexing="ij"))
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) / frequency**1.6)
    ranks = noise.ravel().argsort().argsort().reshape(TILE, TILE)
    return (ranks / ranks.size).astype(np.float32)


@lru_cache(maxsize=1)
def _crowns() -> tuple[Image, Image]:
    """Opacity and brightness of eight crowns of leaves, shapes ``(8, 64, 64)``."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    covers, shades = [], []
    for _ in range(8):
        noise = _tile()[tuple(slice(n, n + 64) for n in rng.integers(0, TILE - 64, 2))]
        speckle = rng.random((64, 64))
        edge = 0.82 + 0.5 * (noise - 0.5) - np.hypot(x, y)
        covers.append(np.clip(edge * 6 + (speckle - 0.5), 0, 1))
        shades.append(1.05 - 0.45 * y - 0.2 * x + 0.5 * (noise - 0.5) + 0.45 * (speckle - 0.5))
    return np.float32(covers), np.float32(shades)
