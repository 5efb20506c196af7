"""What a camera sees of the made-up city: one column of pixels is one ray over the plan.

Walls stand upright and the camera is held level, so every picture column meets the same walls from top to
bottom, as in the games of 1992. Facades are formulas of metres along and up the wall. Their edges and
repeating parts are averaged over a pixel exactly (a pulse train has a simple integral), which keeps slanted
lines straight and far windows from shimmering, at one sample a pixel.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.sources.city import scene as scene
from graticule.sources.city.paint import (
    LAMP,
    TILE,
    Camera,
    Floats,
    Image,
    Light,
    between,
    blend,
    column_of,
    glyphs,
    hash_of,
    haze,
    noise,
    pulse,
)
from graticule.sources.city.scene import Table
from graticule.sources.city.things import draw_things

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]

HALF_VIEW = float(np.tan(np.radians(41)))  # half the width of the picture one metre ahead: 82 degrees across
CAMERA_M = 2.3  # on the roof of a car
NEAR_M = 0.4
BLOCKS_AROUND, STREETS_AROUND = 3, 1
ASPHALT, PAVING, PAINT = (0.27, 0.27, 0.28), (0.56, 0.54, 0.51), (0.85, 0.85, 0.82)


def render(
    city: scene.City, shot: scene.Shot, light: Light, rng: np.random.Generator, width: int, height: int
) -> Pixels:
    """Draw one frame, shape ``(height, width, 3)``, uint8.

    Args:
        rng: for what differs from frame to frame: jitter, moving cars, sensor noise.
    """
    camera = _camera(shot, rng, width, height)
    canvas = np.empty((3, height * width), np.float32)
    depth = np.full(height * width, 1e6, np.float32)
    hits = _hits(camera, *_walls_around(city, shot.near))
    layer = np.zeros((height, width), np.int64)
    for top in hits.skyline.T:
        layer += camera.p[:, None] > top  # how many walls each pixel looks over
    below = camera.p[:, None] < np.minimum(-camera.height / hits.ahead[:, 0], 0)
    is_wall = (layer < hits.skyline.shape[1]) & ~below

    sky, ground, walls = (np.flatnonzero(part) for part in (~below & ~is_wall, below, is_wall))
    canvas[:, sky] = _sky(camera, light, *divmod(sky, width), rng.random(2))
    canvas[:, ground], depth[ground] = _ground(city, camera, light, shot, *divmod(ground, width))
    canvas[:, walls], depth[walls] = _walls(camera, light, hits, *divmod(walls, width), layer.ravel()[walls])
    picture, distance = canvas.reshape(3, height, width), depth.reshape(height, width)
    _soften(picture, camera, hits)
    draw_things(picture, distance, camera, light, hits.ahead[:, 0], city, shot, rng)
    if light.wet:
        _mirror(picture, camera, light.wet, below)
    return _develop(picture, light, rng)


def _camera(shot: scene.Shot, rng: np.random.Generator, width: int, height: int) -> Camera:
    heading = np.radians(shot.heading)
    pixel = 2 * HALF_VIEW / width
    horizon = height * (0.6 + rng.normal(0, 0.012))  # below the middle: houses are above
    k = (np.arange(width) + 0.5 - width / 2) * pixel
    p = (horizon - np.arange(height) - 0.5) * pixel
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
        wall: rows of ``walls``, the walls in view; their ``house`` is a row of ``houses``.
    """

    skyline: Image
    ahead: Image
    along: Image
    stretch: Image
    wall: Rows
    walls: Table
    houses: Table


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
    seen[0] |= not seen.any()  # an open view still needs a row
    walls = walls[seen]
    across, ahead, right, away = across[seen], ahead[seen], right[seen], away[seen]

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


def _walls(camera: Camera, light: Light, hits: Hits, rows: Rows, columns: Rows, layer: Rows) -> tuple[Image, Image]:
    """Colour and depth of samples on walls, shapes ``(3, N)`` and ``(N,)``."""
    # What belongs to a column and wall is worked out there, shape (W, K), and then dealt to the samples.
    wall, house = hits.walls[hits.wall], hits.houses[hits.walls["house"][hits.wall]]
    length, half = wall["length"], house["pane"] / 2
    bays = np.maximum(np.rint(length / house["bay"]), 1)
    bay, bay_wide = hits.along / length * bays, hits.stretch / length * bays
    at = columns * hits.wall.shape[1] + layer
    in_pane = pulse(bay, bay_wide, 0.5 - half, 0.5 + half).take(at)
    in_frame = pulse(bay, bay_wide, 0.5 - half - house["frame"], 0.5 + half + house["frame"]).take(at)
    in_pilaster = pulse(bay + house["pilaster"] / 2, bay_wide, 0, house["pilaster"]).take(at)
    ahead, along, wide, bay = (table.take(at) for table in (hits.ahead, hits.along, hits.stretch, bay))
    lit = _light_on(light, hits.walls).take(hits.wall.take(at), axis=1)
    front = (wall["kind"] == scene.FRONT).take(at)
    length = length.take(at)
    of = _Houses(hits.houses, hits.walls["house"][hits.wall.take(at)])

    up, tall = camera.height + camera.p[rows] * ahead, ahead * camera.pixel
    ground, top = of("ground"), of("height")
    floor, floor_tall = (up - ground) / of("storey"), tall / of("storey")
    sill, lintel, frame, band = of("sill"), of("lintel"), of("frame"), of("band")
    upstairs = front & (floor > 0) & (up < top - 0.7)
    trim = np.maximum(pulse(floor + band / 2, floor_tall, 0, band), in_pilaster) * front
    trim = np.maximum(trim, in_frame * pulse(floor, floor_tall, sill - frame, lintel + frame) * upstairs)
    trim = np.maximum(trim, between(up, tall, top - 0.6, np.inf))
    pane = in_pane * pulse(floor, floor_tall, sill, lintel) * upstairs

    stains = noise(along * 9, up * 9 + of("id") % 509)
    course = of("courses") * (pulse(up * 2.5, tall * 2.5, 0, 0.3) - 0.3)
    colour = blend(of("wall") * (0.86 + 0.26 * stains - course), of("trim"), trim)
    window = hash_of(of("id"), np.floor(bay), np.floor(floor))
    colour = blend(colour, of("glass") * (0.7 + 0.9 * window) + 0.16 * column_of(light.zenith), pane)
    glow = pane * np.clip((window - 0.62) * 9, 0, 1)  # somebody is at home behind a third of the windows

    some = np.flatnonzero(front & (up < ground))
    colour[:, some], glow[some] = _ground_floor(
        of.some(some), up[some], tall[some], along[some], wide[some], length[some]
    )
    poster = between(up, tall, ground + 0.5, np.minimum(ground + 6, top - 1.2)) * of("mural")
    poster *= between(along, wide, 0.14 * length, 0.86 * length)
    some = np.flatnonzero(poster)
    ink = glyphs(of("id")[some], along[some], (up - ground)[some], 2.1, wide[some])
    board = blend(of.some(some)("sign"), of.some(some)("ink"), ink)
    colour[:, some] = blend(colour[:, some], board, poster[some])
    glow[some] += poster[some] * (0.25 - glow[some])

    lit *= 0.72 + 0.28 * np.clip(up / 5, 0, 1)  # less sky is seen from the foot of a wall
    colour = colour * lit + glow * light.night * LAMP * (0.5 + 0.5 * colour)
    return haze(colour, ahead, light), ahead


@dataclass(frozen=True, slots=True)
class _Houses:
    """The houses behind N samples: calling it with a field gives an array of shape ``(N,)`` or ``(3, N)``."""

    table: Table
    rows: Rows

    def __call__(self, name: str) -> Any:
        return self.table[name].T.take(self.rows, axis=-1)

    def some(self, samples: Rows) -> "_Houses":
        return _Houses(self.table, self.rows[samples])


def _ground_floor(of: _Houses, up: Image, tall: Image, along: Image, wide: Image, length: Image) -> tuple[Image, Image]:
    """Shops with a sign and perhaps an awning, or doors and windows of flats: colour and glow by night."""
    shop, ground = of("shop") > 0, of("ground")
    doors = np.maximum(np.rint(length / 3.4), 1) / length
    window = pulse(along * doors, wide * doors, np.where(shop, 0.07, 0.28), np.where(shop, 0.93, 0.72))
    window = window * between(up, tall, np.where(shop, 0.5, 1.1), 2.7)
    which = hash_of(of("id"), np.floor(along * doors), np.zeros_like(up))
    colour = np.where(shop, 0.8 * of("trim"), 0.85 * of("wall"))
    colour = blend(colour, of("glass") + 0.25 * which * shop * of("awning"), window)
    is_door = ~shop & (which > 0.6) & (up < 2.5) & (window > 0.5)
    colour = np.where(is_door, 0.7 * of("ink"), colour)
    colour[:, up < 0.35] *= 0.6
    glow = window * np.where(shop, 0.8, 0.35 * (which > 0.4))

    sign = shop * between(up, tall, ground - 1.25, ground - 0.1)
    ink = glyphs(of("id"), along, up - ground + 1.2, of("glyph") * 0.75, wide)
    ink = ink * (np.minimum(along, length - along) > 0.8)
    colour = blend(colour, blend(of("sign"), of("ink"), ink), sign)
    awning = shop * of("has_awning") * between(up, tall, 2.3, ground - 1.25)
    stripes = blend(of("awning"), column_of((0.93, 0.92, 0.88)), pulse(along, wide, 0, 0.5))
    return blend(colour, stripes, awning), blend(blend(glow, 0.55, sign), 0.1, awning)


def _light_on(light: Light, walls: Table) -> Image:
    """Light that falls on each wall, shape ``(3, N)``: sky, sun, and street lamps by night."""
    slant = walls["north"] * light.sun_toward[0] - walls["east"] * light.sun_toward[1]  # towards the street
    sky = column_of(light.ambient) * (0.86 + 0.14 * slant) + 0.18 * light.night * LAMP
    return np.asarray(sky + column_of(light.sun) * np.clip(slant, 0, 1), np.float32)


def _ground(
    city: scene.City, camera: Camera, light: Light, shot: scene.Shot, rows: Rows, columns: Rows
) -> tuple[Image, Image]:
    """Colour and depth of samples on roads and pavements, shapes ``(3, N)`` and ``(N,)``."""
    ahead = -camera.height / camera.p[rows]
    across = camera.k[columns] * ahead
    wide, deep = ahead * camera.pixel, ahead**2 * (camera.pixel / camera.height)  # metres in a pixel
    road, mark = np.zeros_like(ahead), np.zeros_like(ahead)
    ends, halves = city.streets_near(shot.nodes, STREETS_AROUND)
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
        road[near] = np.maximum(road[near], between(np.hypot(side, past), side_wide, -np.inf, half))
        crossing = np.minimum(on, length - on)  # metres from the nearer crossing
        dashes = pulse(on / 6, on_wide / 6, 0, 0.5) if half < 7 else np.ones_like(on)
        lines = between(side, side_wide, -0.09, 0.09) * dashes
        lines = np.maximum(lines, between(side, side_wide, half - 2.37, half - 2.23)) * (crossing > half + 7)
        zebra = pulse(side / 1.1 + 0.25, side_wide / 1.1, 0, 0.5) * (side < half - 0.3)
        zebra = zebra * between(crossing, on_wide, 9, 12)
        mark[near] = np.maximum(mark[near], np.maximum(lines, zebra))
    x, y = camera.on_plan(across, ahead)
    stains = noise(x * 7, y * 7)
    slab = np.maximum(pulse(x / 1.2, wide / 1.2, 0, 0.06), pulse(y / 1.2, deep / 1.2, 0, 0.06))
    colour = blend(column_of(PAVING) * (1 - 0.3 * slab), column_of(ASPHALT), road)
    colour = blend(colour * (0.8 + 0.4 * stains), column_of(PAINT), mark * road * (0.6 + 0.4 * stains))
    lit = light.ambient * 0.9 + light.sun * max(light.sun_toward[2], 0) * 0.55 + 0.2 * light.night * LAMP[:, 0]
    colour *= column_of(lit * (1 - 0.35 * light.wet))
    return haze(colour, ahead, light), ahead


def _soften(canvas: Image, camera: Camera, hits: Hits) -> None:
    """Give a pixel that the top or the foot of a wall cuts its share of what is above and below."""
    edges = np.column_stack([hits.skyline, -camera.height / hits.ahead[:, 0]])
    at = (camera.p[0] - edges) / camera.pixel + 0.5  # rows from the top of the picture
    column, edge = np.nonzero((at >= 1) & (at < len(camera.p) - 1))
    row = at[column, edge].astype(np.int64)
    above = at[column, edge] - row
    canvas[:, row, column] = blend(canvas[:, row + 1, column], canvas[:, row - 1, column], above)


def _sky(camera: Camera, light: Light, rows: Rows, columns: Rows, drift: Floats) -> Image:
    """Colour of samples in the sky, shape ``(3, N)``: a gradient, a layer of clouds, the glow of the sun."""
    k, p = camera.k[columns], np.maximum(camera.p[rows], 0)
    rise = p / np.hypot(1, k)
    colour = blend(column_of(light.horizon), column_of(light.zenith), 1 - np.exp(-2.6 * rise))
    far = 22 / (rise + 0.16) / np.hypot(1, k)  # to the layer of clouds, which bends down to the horizon
    east, north = camera.on_plan(k * far, far)
    u = east - np.float32(camera.x - drift[0] * TILE)
    v = north - np.float32(camera.y - drift[1] * TILE)
    puff = 0.65 * noise(u, v) + 0.35 * noise(3.1 * u, 3.1 * v)
    cover = np.clip((puff - 1 + light.clouds * 0.9 + 0.12) * 5, 0, 1) * (0.85 if light.clouds < 0.9 else 0.5)
    white = column_of(light.ambient * 1.1 + light.sun * 0.35)
    colour = blend(colour, white * (1.05 - 0.3 * puff), cover)
    across, ahead = camera.turn(light.sun_toward[0], light.sun_toward[1])
    cosine = (k * across + ahead + p * np.float32(light.sun_toward[2])) / np.sqrt(1 + k**2 + p**2)
    glow = np.clip(cosine, 0, 1) ** 90 * np.float32(0.7) + (cosine > 0.9993) * np.float32(2)
    lit: Image = colour + glow * (1 - 0.6 * cover) * column_of(light.sun)
    return lit


def _mirror(canvas: Image, camera: Camera, wet: float, is_ground: NDArray[np.bool_]) -> None:
    """A wet road shows the picture above the horizon upside down, the more the flatter it is seen."""
    rows = np.flatnonzero(camera.p < 0)
    upside_down = np.clip(2 * rows[0] - rows - 1, 0, len(camera.p) - 1)
    share = 0.8 * wet * np.exp(4 * camera.p[rows])[:, None] * is_ground[rows]
    canvas[:, rows] = blend(canvas[:, rows], canvas[:, upside_down], share)


def _develop(seen: Image, light: Light, rng: np.random.Generator) -> Pixels:
    """Exposure, white balance, noise and a soft shoulder; shape ``(3, H, W)`` to ``(H, W, 3)``."""
    gain = light.exposure * rng.uniform(0.92, 1.08) * (1 + rng.normal(0, 0.02, 3))
    seen = seen * column_of(gain)[..., None]
    seen += rng.standard_normal(seen.shape[1:], np.float32) * np.float32(light.noise)
    # Straight up to 0.75, then bent so that bright things keep some of their colour.
    seen = np.minimum(seen, 0.75) + 0.25 * (1 - np.exp(-3 * np.maximum(seen - 0.75, 0)))
    return np.ascontiguousarray((np.clip(seen, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
