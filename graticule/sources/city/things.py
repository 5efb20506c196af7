"""Trees, cars and vans of the made-up city, drawn over a picture that knows how far its walls are."""

from functools import lru_cache

import numpy as np

from graticule.sources.city import scene as scene
from graticule.sources.city.paint import (
    LAMP,
    TILE,
    Camera,
    Image,
    Light,
    between,
    blend,
    column_of,
    haze,
    tile,
)
from graticule.sources.city.scene import Table

CARS_TO_M, TREES_TO_M = 50.0, 110.0
CROWN, BARK, TYRE, CAR_GLASS = (0.26, 0.42, 0.16), (0.23, 0.18, 0.14), (0.05, 0.05, 0.05), (0.10, 0.13, 0.16)


def draw_things(
    canvas: Image,
    depth: Image,
    camera: Camera,
    light: Light,
    first_wall: Image,
    city: scene.City,
    shot: scene.Shot,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Draw trees and cars over the picture, the farthest first."""
    trees = _trees_around(city, shot.near)
    cars = np.concatenate([_moving(city, shot, rng), _parked_around(city, shot.near, shot.drive)])
    found = []
    for table, draw, reach in ((trees, _tree, TREES_TO_M), (cars, _car, CARS_TO_M)):
        across, ahead = camera.see(table["x"], table["y"])
        close = (ahead > -2) & (ahead < reach) & (np.abs(across) < -camera.k[0] * ahead + 6)
        # Behind the nearest wall in three columns: around a corner, and not to be seen.
        spread = np.array([[-1.5], [0], [1.5]])
        columns = (across + spread) / np.maximum(ahead, 1) / camera.pixel + len(camera.k) / 2
        nearest = first_wall[np.clip(columns, 0, len(camera.k) - 1).astype(np.int64)].max(axis=0)
        for row in np.flatnonzero(close & ((ahead < 4) | (nearest > ahead - 2))):
            found.append((float(ahead[row]), draw, table[row]))
    for _, draw, row in sorted(found, key=lambda thing: -thing[0]):
        draw(canvas, depth, camera, light, row)


@lru_cache(maxsize=4)
def _trees_around(city: scene.City, node: scene.Node) -> Table:
    return np.concatenate([city.block(*at).trees for at in city.blocks_near(node, 2)])


@lru_cache(maxsize=4)
def _parked_around(city: scene.City, node: scene.Node, drive: int) -> Table:
    return np.concatenate([city.parked(*at, drive) for at in city.blocks_near(node, 1)])


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
    lit = light.ambient + 0.45 * light.sun + 0.12 * light.night * LAMP[:, 0]
    trunk = _window(camera, across, 0.16, 0.0, middle, ahead)
    if trunk:
        some, _, up = trunk
        shown = (depth[some] > ahead) & (up[:, None] >= 0)
        bark = haze(column_of(np.array(BARK) * lit), np.array([ahead]), light)[..., None]
        canvas[:, *some] = np.where(shown, bark, canvas[:, *some])
    crown = _window(camera, across, radius, middle - 1.25 * radius, middle + 1.25 * radius, ahead)
    if crown:
        some, over, up = crown
        shapes, shades = _crowns()
        u = np.clip((over / radius + 1) * 32, 0, 63).astype(np.int64)
        v = np.clip((1 - (up - middle) / radius / 1.25) * 32, 0, 63).astype(np.int64)
        cover = shapes[tree["shape"]][v[:, None], u] * (1 - light.bare) * (depth[some] > ahead)
        shade = shades[tree["shape"]][v[:, None], u]
        hue = np.array([1 + 0.16 * tree["hue"], 1, 1 - 0.1 * tree["hue"]])
        leaf = column_of(np.array(CROWN) * hue * light.leaves * lit)[..., None] * shade
        canvas[:, *some] = blend(canvas[:, *some], haze(leaf, np.array(ahead), light), cover)


def _window(
    camera: Camera, across: float, half: float, low: float, high: float, ahead: float
) -> tuple[tuple[slice, slice], Image, Image] | None:
    """Rows and columns of an upright rectangle; how far they lie aside of its middle and above ground."""
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
    enter, leave = (
        (start - np.sign(step) * size[:, None]) / step,
        (start + np.sign(step) * size[:, None]) / step,
    )
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
    # Seen is what lies above the near lower edge, and below the edge that ends the box: the far one of its
    # top, or the near one where the top is higher than the camera.
    end, end_at = (up, t) if high > camera.height else (camera.height + rise * out, out)
    cover = between(up, t * camera.pixel, low, np.inf) * between(end, end_at * camera.pixel, -np.inf, high)
    cover = cover * ((t < out) & (t > 0.8) & (depth[some] > t))
    if not cover.any():
        return
    is_end = enter[0, some[1]] > enter[1, some[1]]  # front or back rather than a flank
    along = (step[0, some[1]] * t - start[0]) / half  # -1 at the back, 1 at the front
    beside = (step[1, some[1]] * t - start[1]) / size[1]
    paint = car["paint"][:, None, None]
    side = np.broadcast_to(paint * np.where(is_end, np.float32(0.8), np.float32(1)), (3, *up.shape)).copy()
    glass_low, glass_high = (high - 1.15, high - 0.35) if high > 2 else (max(low, 0.96), high - 0.1)
    glazed = (up > glass_low) & (up < glass_high) & (np.abs(np.where(is_end, beside, along)) < 0.88)
    side[:, glazed] = column_of(CAR_GLASS)
    lit = column_of(light.ambient + 0.35 * light.sun + 0.15 * light.night * LAMP[:, 0])[..., None]
    top = (0.8 * paint + 0.18) * column_of(light.ambient * 1.1 + light.sun * 0.6)[..., None]
    if low == 0:
        wheel = (np.abs(along) - 0.62) * half
        side[:, (~is_end & (wheel**2 + (up - 0.33) ** 2 < 0.115)) | (up < 0.22)] = column_of(TYRE)
        lamp = is_end & (np.abs(np.abs(beside) - 0.78) < 0.16) & (np.abs(up - 0.68) < 0.1)
        lamps = np.where(along > 0, column_of((0.95, 0.93, 0.85)), column_of((0.7, 0.05, 0.05)))[:, None]
        side = np.where(lamp, lamps, side)
        lit = np.maximum(lit, lamp * np.float32(1.3 * light.night))
    colour = haze(np.where(up > high, top, side * lit), t, light)
    canvas[:, *some] = blend(canvas[:, *some], colour, cover)
    on_top = (high - camera.height) / np.minimum(rise, -1e-6)  # how far the top is, where it is seen
    depth[some] = np.where(cover > 0.5, np.where(up > high, on_top, t), depth[some])


@lru_cache(maxsize=1)
def _crowns() -> tuple[Image, Image]:
    """Opacity and brightness of eight crowns of leaves, shapes ``(8, 64, 64)``."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    covers, shades = [], []
    for _ in range(8):
        noise = tile()[tuple(slice(n, n + 64) for n in rng.integers(0, TILE - 64, 2))]
        speckle = rng.random((64, 64))
        edge = 0.82 + 0.5 * (noise - 0.5) - np.hypot(x, y)
        covers.append(np.clip(edge * 6 + (speckle - 0.5), 0, 1))
        shades.append(1.05 - 0.45 * y - 0.2 * x + 0.5 * (noise - 0.5) + 0.45 * (speckle - 0.5))
    return np.array(covers, np.float32), np.array(shades, np.float32)
