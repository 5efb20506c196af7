"""The plan of a made-up city: streets, house fronts, trees, cars and the drives between them. No pixels.

The plan is a plane of metres, ``x`` to the east and ``y`` to the north, with the centre of the city at 0, 0.
Streets join the nodes of a bent grid; the four-sided blocks between them are filled only when a camera comes
near, so that a city of 50 km costs no more than what is seen of it. All of it follows from one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Table = NDArray[np.void]  # a structured array
Node = tuple[int, int]

SPACING_M = 95.0  # between parallel streets
MARGIN_M = 25.0  # from the outermost street to the edge of the square: room for bends, lanes and jitter
SIDEWALK_M = 3.4
PIECE_M = 15.0  # a place is a piece of street about this long
STOREY_M = 3.3
TURN_M = 6.0  # a car begins to turn so far before a crossing

# Parts of the seed, so that streets, blocks, cars and drives each have numbers of their own.
STREETS, BLOCK, PARKED, DRIVES, SHOT, LIGHT = range(6)

FRONT, SIDE = 0, 1
WALL = np.dtype([
    ("x", "f4"), ("y", "f4"),  # the left end, seen from the street
    ("east", "f4"), ("north", "f4"),  # unit vector to the right end
    ("length", "f4"), ("height", "f4"), ("kind", "i4"), ("house", "i4"),
])  # fmt: skip
HOUSE = np.dtype([
    ("id", "u4"), ("wall", "f4", 3), ("trim", "f4", 3), ("glass", "f4", 3),
    ("bay", "f4"), ("storey", "f4"), ("ground", "f4"), ("height", "f4"),  # metres
    ("pane", "f4"), ("sill", "f4"), ("lintel", "f4"), ("frame", "f4"),  # shares of a bay or a storey
    ("band", "f4"), ("pilaster", "f4"), ("courses", "f4"),
    ("shop", "f4"), ("awning", "f4", 3), ("has_awning", "f4"),
    ("sign", "f4", 3), ("ink", "f4", 3), ("glyph", "f4"), ("mural", "f4"),
])  # fmt: skip
TREE = np.dtype([("x", "f4"), ("y", "f4"), ("height", "f4"), ("radius", "f4"), ("hue", "f4"), ("shape", "i4")])
CAR = np.dtype([
    ("x", "f4"), ("y", "f4"), ("east", "f4"), ("north", "f4"),  # middle, and unit vector to the front
    ("length", "f4"), ("width", "f4"), ("height", "f4"), ("paint", "f4", 3),
])  # fmt: skip
CAR_PAINTS = np.array([
    (0.86, 0.86, 0.85), (0.10, 0.10, 0.11), (0.50, 0.51, 0.53), (0.30, 0.31, 0.33),
    (0.60, 0.08, 0.08), (0.10, 0.20, 0.45), (0.12, 0.30, 0.20), (0.80, 0.62, 0.12),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """What stands between four streets.

    Attributes:
        walls, houses, trees: tables of type ``WALL``, ``HOUSE`` and ``TREE``.
        kerb: corners of the block at the kerb, counter-clockwise, shape ``(4, 2)``.
    """

    walls: Table
    houses: Table
    trees: Table
    kerb: Floats


@dataclass(frozen=True, slots=True)
class Shot:
    """One press of the shutter: where the camera of a drive stands and looks.

    Attributes:
        along_m: metres driven since the start.
        heading: degrees clockwise from north, in [0, 360).
        nodes: the ends of the street it is on, the lower first; ``near`` is the nearer of them.
        piece: which piece of that street.
    """

    drive: int
    number: int
    x: float
    y: float
    heading: float
    along_m: float
    nodes: tuple[Node, Node]
    near: Node
    piece: int

    @property
    def place(self) -> str:
        """The same for every drive and direction."""
        (i, j), (to_i, _) = self.nodes
        return f"{'ew' if to_i > i else 'ns'}-{i:03d}-{j:03d}-{self.piece:02d}"


@dataclass(frozen=True, eq=False, slots=True)  # one city is itself: it can be a key of a cache
class City:
    """Streets of a square city.

    Attributes:
        nodes: crossings, shape ``(L, L, 2)``, metres. The outermost ring lies beyond the square: it is seen
            and never driven.
        half_x, half_y: half the roadway of the streets that run north and east, shape ``(L,)``.
    """

    seed: int
    nodes: Floats
    half_x: Floats
    half_y: Floats
    _blocks: dict[Node, Block] = field(default_factory=dict)

    @property
    def lines(self) -> int:
        return len(self.half_x)

    def block(self, i: int, j: int) -> Block:
        """The block whose south-western corner is node ``i, j``; built once."""
        if (i, j) not in self._blocks:
            if len(self._blocks) > 2000:  # a few hundred MB; a long drive through a large city ends here
                self._blocks.clear()
            self._blocks[i, j] = self._build(i, j)
        return self._blocks[i, j]

    def blocks_near(self, node: Node, reach: int) -> list[Node]:
        """Blocks within ``reach`` blocks of a node, those beside it included."""
        return [
            (i, j)
            for i in range(max(node[0] - reach, 0), min(node[0] + reach, self.lines - 1))
            for j in range(max(node[1] - reach, 0), min(node[1] + reach, self.lines - 1))
        ]

    def streets_near(self, nodes: tuple[Node, Node], reach: int) -> tuple[Floats, Floats]:
        """Streets within ``reach`` crossings of one: ends, shape ``(E, 2, 2)``, half widths, ``(E,)``."""
        low, high = nodes
        i0, j0 = (max(n - reach, 0) for n in low)
        near = self.nodes[i0 : high[0] + reach + 1, j0 : high[1] + reach + 1]
        half_x, half_y = self.half_x[i0 : i0 + near.shape[0]], self.half_y[j0 : j0 + near.shape[1]]
        eastward = np.stack([near[:-1], near[1:]], axis=2).reshape(-1, 2, 2)
        northward = np.stack([near[:, :-1], near[:, 1:]], axis=2).reshape(-1, 2, 2)
        half = np.concatenate([
            np.broadcast_to(half_y, (near.shape[0] - 1, near.shape[1])).ravel(),
            np.broadcast_to(half_x[:, None], (near.shape[0], near.shape[1] - 1)).ravel(),
        ])  # fmt: skip
        return np.concatenate([eastward, northward]), half

    def parked(self, i: int, j: int, drive: int) -> Table:
        """Cars at the kerbs of a block: others on each drive, the same for all frames of one."""
        rng = np.random.default_rng([self.seed, PARKED, drive, i, j])
        kerb = self.block(i, j).kerb
        rows = []
        for a, b in zip(kerb, np.roll(kerb, -1, axis=0), strict=True):
            length = float(np.hypot(*(b - a)))
            direction = (b - a) / length
            slots = np.arange(8.0, length - 8.0, 6.2)
            slots = slots[rng.random(len(slots)) < rng.uniform(0.05, 0.5)]
            out = np.array([direction[1], -direction[0]])
            rows.append(cars(rng, a + slots[:, None] * direction + 1.15 * out, direction, trucks=0.07))
        return np.concatenate(rows)

    def _build(self, i: int, j: int) -> Block:
        rng = np.random.default_rng([self.seed, BLOCK, i, j])
        corners = self.nodes[[i, i + 1, i + 1, i], [j, j, j + 1, j + 1]]
        half = np.array([self.half_y[j], self.half_x[i + 1], self.half_y[j + 1], self.half_x[i]])
        kerb = inset(corners, half)
        front = inset(corners, half + SIDEWALK_M)
        is_park = (i + j) % 2 == 0 and rng.random() < 0.16  # never two side by side
        trees = [_park_trees(rng, front)] if is_park else []
        trees += [_street_trees(rng, kerb[k], kerb[k - 3]) for k in range(4) if rng.random() < 0.3]
        walls, houses = (np.empty(0, WALL), np.empty(0, HOUSE)) if is_park else _houses(rng, front)
        return Block(walls, houses, np.concatenate([np.empty(0, TREE), *trees]), kerb)


def plan_city(seed: int, size_km: float) -> City:
    """Lay the streets of a square city."""
    rng = np.random.default_rng([seed, STREETS])
    inner = size_km * 1000 - 2 * MARGIN_M
    drivable = max(2, round(inner / SPACING_M) + 1)
    gap = inner / (drivable - 1)
    straight = (np.arange(drivable + 2) - (drivable + 1) / 2) * gap
    bend = min(0.1 * gap, MARGIN_M / 3)
    # A whole street is moved, then each of its crossings: straight enough to look along, bent enough to know.
    x = straight + rng.uniform(-bend, bend, drivable + 2)
    y = straight + rng.uniform(-bend, bend, drivable + 2)
    nodes = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1)
    nodes += rng.uniform(-bend / 2, bend / 2, nodes.shape)
    half_x, half_y = (np.where(rng.random(drivable + 2) < 0.25, 8.0, rng.uniform(4.6, 6.0)) for _ in "xy")
    return City(seed, nodes, half_x, half_y)


def plan_drives(city: City, frames: Sequence[int]) -> list[list[Shot]]:
    """One walk a drive through the streets, with its number of frames 8 to 15 m apart.

    A walk prefers to go straight on and mildly prefers streets that earlier drives took, so that drives
    overlap as those of a mapping company do.
    """
    rng = np.random.default_rng([city.seed, DRIVES])
    used: dict[frozenset[Node], int] = {}
    drives = []
    for drive, count in enumerate(frames):
        steps = rng.uniform(8, 15, count)
        along = 2 * TURN_M + np.cumsum(steps)
        path = _walk(rng, city, float(along[-1]) + 4 * TURN_M, used)
        for pair in pairwise(path):
            used[frozenset(pair)] = used.get(frozenset(pair), 0) + 1
        drives.append(_shots(rng, city, drive, path, along))
    return drives


def _walk(rng: np.random.Generator, city: City, length: float, used: dict[frozenset[Node], int]) -> list[Node]:
    last = city.lines - 2  # the ring beyond the square is not driven
    start = (int(rng.integers(1, last + 1)), int(rng.integers(1, last + 1)))
    path, here, came = [start], start, (0, 0)
    driven: set[frozenset[Node]] = set()
    while length > 0:
        steps = [
            (di, dj)
            for di, dj in ((1, 0), (0, 1), (-1, 0), (0, -1))
            if (di, dj) != (-came[0], -came[1]) or came == (0, 0)
            if 1 <= here[0] + di <= last and 1 <= here[1] + dj <= last
        ]
        streets = [frozenset([here, (here[0] + di, here[1] + dj)]) for di, dj in steps]
        weights = np.array([1.0 + min(used.get(street, 0), 5) for street in streets])
        weights *= [2.0 if step == came else 1.0 for step in steps]
        weights *= [0.2 if street in driven else 1.0 for street in streets]
        pick = int(rng.choice(len(steps), p=weights / weights.sum()))
        came, there = steps[pick], (here[0] + steps[pick][0], here[1] + steps[pick][1])
        length -= float(np.hypot(*(city.nodes[there] - city.nodes[here])))
        driven.add(streets[pick])
        path.append(there)
        here = there
    return path


def _shots(rng: np.random.Generator, city: City, drive: int, path: list[Node], along: Floats) -> list[Shot]:
    points = np.array([city.nodes[node] for node in path])
    lengths = np.hypot(*np.diff(points, axis=0).T)
    marks = np.concatenate([[0], np.cumsum(lengths)])

    def at(metres: Floats) -> Floats:
        return np.stack([np.interp(metres, marks, points[:, axis]) for axis in (0, 1)], axis=-1)

    behind, ahead = at(along - TURN_M), at(along + TURN_M)
    forward = (ahead - behind) / np.linalg.norm(ahead - behind, axis=1, keepdims=True)
    right = forward @ np.array([[0.0, -1.0], [1.0, 0.0]])
    lane = 1.9 + rng.normal(0, 0.5, len(along))
    xy = (behind + at(along) + ahead) / 3 + right * lane[:, None]  # the mean cuts corners as a car does
    looks_aside = rng.uniform(-8, 8)  # how the camera of this drive is mounted
    heading = np.degrees(np.arctan2(*forward.T)) + looks_aside + rng.normal(0, 3, len(along))
    leg = np.clip(np.searchsorted(marks, along, side="right") - 1, 0, len(lengths) - 1)
    shots = []
    for number, k in enumerate(leg):
        a, b = path[k], path[k + 1]
        share = (along[number] - marks[k]) / lengths[k]
        pieces = max(1, round(lengths[k] / PIECE_M))
        piece = min(int((share if a < b else 1 - share) * pieces), pieces - 1)
        x, y = (float(v) for v in xy[number])
        ends, near = (min(a, b), max(a, b)), a if share < 0.5 else b
        turned = float(heading[number]) % 360
        shots.append(Shot(drive, number, x, y, turned, float(along[number]), ends, near, piece))
    return shots


def cars(rng: np.random.Generator, xy: Floats, direction: Floats, trucks: float = 0.1) -> Table:
    """Cars and a share of trucks at points of shape ``(N, 2)``, pointing along or against ``direction``."""
    out = np.empty(len(xy), CAR)
    big = rng.random(len(xy)) < trucks
    sign = np.where(rng.random(len(xy)) < 0.5, 1, -1)
    out["x"], out["y"] = xy.T
    out["east"], out["north"] = direction[..., 0] * sign, direction[..., 1] * sign
    out["length"] = np.where(big, rng.uniform(5.5, 9, len(xy)), rng.uniform(3.8, 4.8, len(xy)))
    out["width"] = np.where(big, 2.3, 1.8)
    out["height"] = np.where(big, rng.uniform(2.6, 3.2, len(xy)), rng.uniform(1.42, 1.75, len(xy)))
    out["paint"] = CAR_PAINTS[rng.integers(len(CAR_PAINTS), size=len(xy))]
    return out


def inset(corners: Floats, by: Floats) -> Floats:
    """A convex counter-clockwise polygon, each side moved inwards; ``by[k]`` is for the side from ``k``."""
    along = np.roll(corners, -1, axis=0) - corners
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    start = corners + by[:, None] * along @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    before, at = np.roll(along, 1, axis=0), np.roll(start, 1, axis=0)
    # Where the line of each side meets the one before it.
    cross = before[:, 0] * along[:, 1] - before[:, 1] * along[:, 0]
    gap = start - at
    reach = (gap[:, 0] * along[:, 1] - gap[:, 1] * along[:, 0]) / cross
    moved: Floats = at + reach[:, None] * before
    return moved


def _houses(rng: np.random.Generator, front: Floats) -> tuple[Table, Table]:
    """House fronts along the four sides, each with a wall into the block at both ends."""
    walls: list[tuple[float, ...]] = []
    house = 0
    for a, b in zip(front, np.roll(front, -1, axis=0), strict=True):
        length = float(np.hypot(*(b - a)))
        east, north = (b - a) / length
        cuts = np.cumsum(rng.uniform(10, 21, int(length / 10) + 2))
        cuts = np.concatenate([[0], cuts[cuts < length - 9], [length]])
        for n, (left, right) in enumerate(pairwise(cuts)):
            first, last = n == 0, n == len(cuts) - 2
            back = 0.0 if first or last or rng.random() < 0.6 else float(rng.uniform(0.5, 2.5))
            x, y = a + left * np.array([east, north]) + back * np.array([-north, east])
            wide = right - left
            walls.append((x, y, east, north, wide, 0, FRONT, house))
            if not first:  # at a corner the next front closes the house
                walls.append((x - 14 * north, y + 14 * east, north, -east, 14, 0, SIDE, house))
            if not last:
                walls.append((x + wide * east, y + wide * north, -north, east, 14, 0, SIDE, house))
            house += not last  # the last front of a side and the first of the next are one house
    table = np.array(walls, WALL)
    table["house"] %= house
    houses = _styles(rng, house)
    table["height"] = houses["height"][table["house"]]
    return table, houses


def _styles(rng: np.random.Generator, n: int) -> Table:
    """How each of ``n`` houses looks; drawn so that neighbours differ in several ways at once."""
    out = np.empty(n, HOUSE)
    out["id"] = rng.integers(2**32, size=n, dtype=np.uint32)
    loud = rng.random(n) < 0.3
    saturation = np.where(loud, rng.uniform(0.4, 0.7, n), rng.uniform(0.05, 0.4, n))
    earthy = rng.choice([0.02, 0.06, 0.1, 0.13, 0.55, 0.6], n) + rng.normal(0, 0.02, n)
    out["wall"] = hsv(np.where(loud, rng.random(n), earthy), saturation, rng.uniform(0.35, 0.92, n))
    trim_is_light = rng.random((n, 1)) < 0.6
    out["trim"] = np.where(trim_is_light, 0.55 * out["wall"] + 0.42, 0.5 * out["wall"])
    out["glass"] = hsv(rng.uniform(0.5, 0.65, n), rng.uniform(0.1, 0.5, n), rng.uniform(0.12, 0.3, n))
    glassy = rng.random(n) < 0.15
    storeys = np.where(rng.random(n) < 0.12, rng.integers(8, 15, n), rng.integers(1, 6, n))
    out["ground"] = rng.uniform(3.8, 4.8, n)
    out["storey"] = STOREY_M * rng.uniform(0.9, 1.15, n)
    out["height"] = out["ground"] + storeys * out["storey"] + rng.uniform(0.7, 1.4, n)
    out["bay"] = rng.uniform(1.7, 3.6, n)
    out["pane"] = np.where(glassy, 0.92, rng.uniform(0.35, 0.72, n))
    out["sill"] = np.where(glassy, 0.08, rng.uniform(0.15, 0.35, n))
    out["lintel"] = np.where(glassy, 0.96, rng.uniform(0.7, 0.9, n))
    out["frame"] = np.where(rng.random(n) < 0.6, rng.uniform(0.05, 0.1, n), 0)
    out["band"] = np.where(rng.random(n) < 0.35, rng.uniform(0.08, 0.16, n), 0)
    out["pilaster"] = np.where(rng.random(n) < 0.3, rng.uniform(0.08, 0.2, n), 0)
    out["courses"] = np.where(rng.random(n) < 0.45, 0.22, 0)
    out["shop"] = rng.random(n) < 0.65
    out["awning"] = hsv(rng.random(n), rng.uniform(0.5, 0.85, n), rng.uniform(0.5, 0.9, n))
    out["has_awning"] = rng.random(n) < 0.5
    hue, light = rng.random(n), rng.random(n) < 0.5
    out["sign"] = hsv(hue, np.where(light, 0.15, 0.8), np.where(light, 0.95, 0.4))
    out["ink"] = hsv(hue + 0.5, np.where(light, 0.9, 0.15), np.where(light, 0.3, 0.98))
    out["glyph"] = rng.uniform(0.7, 1.3, n)
    out["mural"] = rng.random(n) < 0.2
    return out


def _street_trees(rng: np.random.Generator, a: Floats, b: Floats) -> Table:
    length = float(np.hypot(*(b - a)))
    direction = (b - a) / length
    along = np.arange(9.0, length - 9.0, rng.uniform(9, 15))
    along += rng.uniform(-1, 1, len(along))
    inward = np.array([-direction[1], direction[0]])
    return _trees(rng, a + along[:, None] * direction + 0.8 * inward, rng.uniform(4.5, 8))


def _park_trees(rng: np.random.Generator, front: Floats) -> Table:
    weights = rng.dirichlet(np.ones(4), 45)
    return _trees(rng, weights @ front, 9)


def _trees(rng: np.random.Generator, xy: Floats, height: float) -> Table:
    out = np.empty(len(xy), TREE)
    out["x"], out["y"] = xy.T
    out["height"] = height * rng.uniform(0.8, 1.2, len(xy))
    out["radius"] = out["height"] * rng.uniform(0.24, 0.34, len(xy))
    out["hue"] = rng.normal(0, 1, len(xy))
    out["shape"] = rng.integers(8, size=len(xy))
    return out


def hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Hue of any size (one turn is 1), saturation and value in [0, 1] to RGB of shape ``(N, 3)``."""
    wheel = np.clip(np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    rgb: Floats = value[:, None] * (1 + saturation[:, None] * (wheel - 1))
    return rgb
