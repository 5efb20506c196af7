"""S2 cells as arrays of uint64: the only room that knows how the sphere is cut.

S2 (s2geometry.io) projects the sphere onto the six faces of a cube, halves each face 30 times both ways,
and numbers the squares along a Hilbert curve, so that every cell owns one unbroken run of level-30 ids. An id
holds 3 bits of face, two bits a level, and one marker bit whose position tells the level.

The formulas are those of s2geometry's ``s2cell_id.cc`` and ``s2coords.h``, in the same order of operations,
so that the leaf ids agree with it to the last bit. Ids never pass through float64 or a signed integer.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, Ints, check_latlon, from_vectors, great_circle_km

Cells = NDArray[np.uint64]

MAX_LEVEL: Final = 30
_SIZE: Final = 1 << MAX_LEVEL  # leaf cells along one edge of a face
_ONE: Final = np.uint64(1)
_ONE_A_LEVEL: Final = np.uint64(0x1555555555555555)  # a marker bit stands at an even place, 0 to 60
_CHUNK: Final = 1 << 13  # points at a time: what the kernel holds of them stays in the second-level cache

# One step down the Hilbert curve (s2coords.cc). A state says how the curve lies in a square: bit 0, i and j
# are swapped; bit 1, both run backwards. `_QUARTER[state][position]` is the quarter 2 i + j at that position.
_QUARTER: Final = np.array([[0, 1, 3, 2], [0, 2, 3, 1], [3, 2, 0, 1], [3, 1, 0, 2]])
_TURN: Final = np.array([1, 0, 0, 3])  # the state of the quarter at each position: state ^ turn


def _six_steps() -> NDArray[np.uint16]:
    """Six steps at once: state (2 bits), i (6), j (6) give the state after (2 bits) and the position (12)."""
    state, i, j = np.meshgrid(np.arange(4), np.arange(64), np.arange(64), indexing="ij")
    position = np.zeros_like(state)
    position_of = np.argsort(_QUARTER, axis=1)
    for bit in range(5, -1, -1):
        step = position_of[state, 2 * (i >> bit & 1) + (j >> bit & 1)]
        position = position << 2 | step
        state = state ^ _TURN[step]
    return (state << 12 | position).astype(np.uint16).ravel()


_SIX_STEPS: Final = _six_steps()


def leaf_cells(lat: ArrayLike, lon: ArrayLike) -> Cells:
    """The level-30 cell (about 1 cm) of each point.

    Args:
        lat, lon: degrees, any one shape.

    Returns:
        Ids of the same shape, bit for bit those of s2geometry's ``S2CellId(S2LatLng.FromDegrees(lat, lon))``.

    Raises:
        BadCoordinateError: a point is off the globe.
    """
    lats, lons = check_latlon(lat, lon)
    out = np.empty(lats.shape, np.uint64)
    flat_lat, flat_lon, flat_out = lats.reshape(-1), lons.reshape(-1), out.reshape(-1)
    scratch = _Scratch(min(_CHUNK, out.size))
    for start in range(0, out.size, _CHUNK):
        some = slice(start, start + _CHUNK)
        _leaves_of_chunk(flat_lat[some], flat_lon[some], flat_out[some], scratch)
    return out


class _Scratch:
    """Room for what the kernel holds of one chunk of points, used again for the next."""

    def __init__(self, size: int) -> None:
        self.floats = np.empty((6, size))
        self.ints = np.empty((4, size), np.int32)
        self.bools = np.empty((3, size), np.bool_)
        self.index = np.empty(size, np.intp)
        self.walked = np.empty(size, np.uint16)


def _leaves_of_chunk(lat: Floats, lon: Floats, cells: Cells, scratch: _Scratch) -> None:
    """Write the leaf ids of a chunk of points into ``cells``; in place, as fresh arrays double the time."""
    n = len(lat)
    x, y, z, u, v, spare = scratch.floats[:, :n]
    i, j, state, bits = scratch.ints[:, :n]
    on_x, on_z, flag = scratch.bools[:, :n]

    # S2LatLng::ToPoint: x = cos(lon) cos(lat), y = sin(lon) cos(lat), z = sin(lat).
    np.multiply(lat, np.pi / 180, out=u)  # np.radians has no vector form
    np.multiply(lon, np.pi / 180, out=v)
    np.sin(u, out=z)
    np.cos(u, out=u)
    np.cos(v, out=x)
    np.sin(v, out=y)
    x *= u
    y *= u

    # The face is that of the largest component; on a tie z goes before y, and y before x.
    np.abs(x, out=u)
    np.abs(y, out=v)
    np.greater(u, v, out=on_x)
    np.maximum(u, v, out=u)
    np.abs(z, out=spare)
    np.greater_equal(spare, u, out=on_z)
    np.greater(on_x, on_z, out=on_x)  # on x and not on z
    depth = np.where(on_z, z, np.where(on_x, x, y))

    # u, v = (y, z) / x on the x faces, (-x, z) / y on the y faces, (-x, -y) / z on the z faces. Faces 3 to 5
    # also swap u and v, and begin with the curve swapped: the two undo each other along the whole curve, so
    # that each face is walked as its opposite, and only the y faces begin swapped.
    np.negative(x, out=x)
    np.divide(np.where(on_x, y, x), depth, out=u)
    np.negative(y, out=y)
    np.divide(np.where(on_z, y, z), depth, out=v)
    _to_rows(u, out=i, spare=spare)
    _to_rows(v, out=j, spare=spare)

    np.less(depth, 0, out=flag)
    np.multiply(flag, 3, out=bits)  # face = 3 (depth < 0) + 0, 1, 2 for x, y, z
    bits += 1
    bits += on_z
    bits -= on_x
    np.copyto(cells, bits, casting="unsafe")
    np.logical_or(on_x, on_z, out=flag)
    np.logical_not(flag, out=flag)
    np.multiply(flag, 1 << 12, out=state)

    walked, index = scratch.walked[:n], scratch.index[:n]
    for shift in range(24, -1, -6):
        np.right_shift(j, shift, out=bits)
        bits &= 0x3F
        state |= bits
        np.right_shift(i, shift, out=bits)
        bits &= 0x3F
        bits <<= 6
        np.bitwise_or(state, bits, out=index)
        np.take(_SIX_STEPS, index, out=walked, mode="clip")  # unlike "raise", "clip" writes straight to out
        np.bitwise_and(walked, 3 << 12, out=state)
        walked &= 0xFFF
        cells <<= np.uint64(12)
        cells |= walked
    cells <<= _ONE
    cells |= _ONE


def _to_rows(u: Floats, out: NDArray[np.int32], spare: Floats) -> None:
    """S2's quadratic projection, then the row of leaf cells: ``floor(2**30 * st)``, held inside the face.

    ``st`` is ``sqrt(1 + 3 |u|) / 2``, or 1 minus that for negative ``u``: modulo ``2**30`` just its negative.
    """
    np.abs(u, out=spare)
    spare *= 3
    spare += 1
    np.sqrt(spare, out=spare)
    spare *= _SIZE / 2
    np.minimum(spare, _SIZE - 0.5, out=spare)
    np.copysign(spare, u, out=spare)
    np.floor(spare, out=spare)
    np.copyto(out, spare, casting="unsafe")
    out &= _SIZE - 1


def face_cells() -> Cells:
    """The six faces of the cube, shape ``(6,)``: cells of level 0."""
    return (np.arange(6, dtype=np.uint64) << np.uint64(61)) | np.uint64(1 << 60)


def are_valid(cells: Cells) -> NDArray[np.bool_]:
    """Whether each number is the id of a cell: one of six faces, and a marker bit in a lawful place."""
    valid: NDArray[np.bool_] = (cells >> np.uint64(61) < 6) & (_marker(cells) & _ONE_A_LEVEL != 0)
    return valid


def level_of(cells: Cells) -> Ints:
    """Level of each cell, 0 (a face) to 30 (a leaf)."""
    zeros_after_marker = np.bitwise_count(_marker(cells) - _ONE)
    level: Ints = MAX_LEVEL - zeros_after_marker.astype(np.int64) // 2
    return level


def parents(cells: Cells, level: int | None = None) -> Cells:
    """The cell of that level around each cell; without a level, of one level up from each cell's own.

    Raises:
        ValueError: the level is not in 0..30, or a cell is larger than that; or a face is asked for its parent.
    """
    up = _marker(cells) << np.uint64(2)
    marker: Cells = up if level is None else np.full_like(cells, _marker_of_level(level))
    if level is None and (up > _marker_of_level(0)).any():
        raise ValueError("a cell of level 0 has no parent")
    if (_marker(cells) > marker).any():
        raise ValueError(f"a cell of level {level_of(cells).min()} has no parent of level {level}")
    found: Cells = (cells & ~(marker - _ONE)) | marker
    return found


def children(cells: Cells) -> Cells:
    """The four cells one level down, shape ``(..., 4)``, in the order of the curve, hence sorted.

    Raises:
        ValueError: a leaf cell has no children.
    """
    marker = _marker(cells)
    if (marker == 1).any():
        raise ValueError(f"a cell of level {MAX_LEVEL} has no children")
    small = marker >> np.uint64(2)
    offsets = np.array([-3, -1, 1, 3], np.int64).astype(np.uint64)  # wraps modulo 2**64, as the sum does
    result: Cells = cells[..., None] + small[..., None] * offsets
    return result


def range_min(cells: Cells) -> Cells:
    """The first leaf id inside each cell."""
    return cells - (_marker(cells) - _ONE)


def range_max(cells: Cells) -> Cells:
    """The last leaf id inside each cell."""
    return cells + (_marker(cells) - _ONE)


def to_tokens(cells: Cells) -> list[str]:
    """S2's short text form: the hexadecimal id without its trailing zeros."""
    return [f"{cell:016x}".rstrip("0") for cell in cells.ravel().tolist()]


def from_tokens(tokens: Sequence[str]) -> Cells:
    """The way back from :func:`to_tokens`."""
    return np.array([int(token.ljust(16, "0"), 16) for token in tokens], np.uint64)


def centers(cells: Cells) -> tuple[Floats, Floats]:
    """Latitude and longitude of the middle of each cell, degrees, shape of the input."""
    face, u, _, v, _ = _bounds(cells, middle=True)
    return from_vectors(_to_xyz(face, u, v))


def outlines(cells: Cells, points_per_edge: int = 1) -> tuple[Floats, Floats]:
    """The border of each cell, counter-clockwise seen from outside, from S2's vertex 0; not closed.

    Args:
        cells: ids, shape ``(C,)``.
        points_per_edge: corners alone, or more points along each edge (an edge is part of a great circle).

    Returns:
        Latitude and longitude in degrees, each of shape ``(C, 4 * points_per_edge)``.
    """
    return from_vectors(_outline_vectors(cells, points_per_edge))


def areas_km2(cells: Cells) -> Floats:
    """Area of each cell on a sphere of the Earth's mean radius, shape ``(C,)``.

    Two spherical triangles, each by Eriksson's formula (Mathematics Magazine 63, 1990), whose triple product
    is taken over the short edges so that a leaf cell keeps its digits.
    """
    corners = _outline_vectors(cells, 1)
    a = corners[:, 0]
    area = np.zeros(len(cells))
    for b, c in ((corners[:, 1], corners[:, 2]), (corners[:, 2], corners[:, 3])):
        volume = (a * np.cross(b - a, c - a)).sum(axis=-1)
        around = 1 + (a * b).sum(axis=-1) + (b * c).sum(axis=-1) + (c * a).sum(axis=-1)
        area += 2 * np.arctan2(volume, around)
    return area * EARTH_RADIUS_KM**2


def shares_within(cells: Cells, lat: float, lon: float, radius_km: float) -> Floats:
    """Share of each cell's area that lies within a circle on the sphere, in [0, 1], shape ``(C,)``.

    Cells on the circle are cut until they are a hundredth of the radius wide; the whole circle is right to about
    a thousandth of its area.

    Raises:
        ValueError: the radius is not above 0.
    """
    if not radius_km > 0:
        raise ValueError(f"the radius of a circle is above 0 km, got {radius_km}")
    inside = np.zeros(len(cells))
    owner, parts = np.arange(len(cells)), cells
    while len(parts):
        middle_lat, middle_lon = centers(parts)
        distance = great_circle_km(lat, lon, middle_lat, middle_lon)
        reach = great_circle_km(middle_lat[:, None], middle_lon[:, None], *outlines(parts)).max(axis=1)
        smallest = (reach < radius_km / 100) | (level_of(parts) == MAX_LEVEL)
        whole = (distance + reach <= radius_km) | smallest & (distance <= radius_km)
        np.add.at(inside, owner[whole], areas_km2(parts[whole]))
        cut = (np.abs(distance - radius_km) < reach) & ~smallest & ~whole
        owner, parts = np.repeat(owner[cut], 4), children(parts[cut]).ravel()
    share: Floats = np.minimum(inside / areas_km2(cells), 1)
    return share


def shares_of(cells: Cells, ground: Cells) -> tuple[Ints, Ints, Floats]:
    """How cells of any level lie in a sorted cover of the sphere by G cells, none of which lies in another.

    Returns:
        ``(first, last, share)``, each ``(C,)``: cell c is ``ground[first:last]``; where it is smaller than one of them,
        this one, and ``share`` of its area; else the share is 1.
    """
    first = np.searchsorted(ground, range_min(cells), "left")
    last = np.searchsorted(ground, range_max(cells), "right")
    around = np.minimum(np.searchsorted(range_max(ground), cells, "left"), len(ground) - 1)
    smaller = first == last
    share = np.where(smaller, areas_km2(cells) / areas_km2(ground[around]), 1.0)
    return np.where(smaller, around, first), np.where(smaller, around + 1, last), share


def _marker(cells: Cells) -> Cells:
    """The lowest set bit, whose place tells the level."""
    return cells & (~cells + _ONE)


def _marker_of_level(level: int) -> np.uint64:
    if not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level {level} does not exist; S2 levels run from 0 to {MAX_LEVEL}")
    return np.uint64(1 << 2 * (MAX_LEVEL - level))


def _bounds(cells: Cells, middle: bool = False) -> tuple[Ints, Floats, Floats, Floats, Floats]:
    """Face and the borders ``u_low, u_high, v_low, v_high`` of each cell, or its middle twice."""
    face = (cells >> np.uint64(61)).astype(np.int64)
    level = level_of(cells)
    state = face & 1
    i, j = np.zeros_like(face), np.zeros_like(face)
    for step in range(int(level.max(initial=0))):
        deeper = step < level
        position = (cells >> np.uint64(59 - 2 * step) & np.uint64(3)).astype(np.int64)
        quarter = _QUARTER[state, position]
        i = np.where(deeper, i << 1 | quarter >> 1, i)
        j = np.where(deeper, j << 1 | quarter & 1, j)
        state ^= _TURN[position]
    cells_along_edge = np.exp2(level)
    low, high = (0.5, 0.5) if middle else (0.0, 1.0)
    u_low, u_high = (_st_to_uv((i + side) / cells_along_edge) for side in (low, high))
    v_low, v_high = (_st_to_uv((j + side) / cells_along_edge) for side in (low, high))
    return face, u_low, u_high, v_low, v_high


def _st_to_uv(st: Floats) -> Floats:
    """Inverse of S2's quadratic projection."""
    return np.where(st >= 0.5, (4 * st**2 - 1) / 3, (1 - 4 * (1 - st) ** 2) / 3)


def _to_xyz(face: Ints, u: Floats, v: Floats) -> Floats:
    """Unit vectors of points on the cube's faces, shape ``(..., 3)`` (``FaceUVtoXYZ``)."""
    one = np.ones_like(u)
    by_face = [(one, u, v), (-u, one, v), (-u, -v, one), (-one, -v, -u), (v, -one, -u), (v, u, -one)]
    xyz = np.stack([np.choose(face, [sides[axis] for sides in by_face]) for axis in range(3)], axis=-1)
    unit: Floats = xyz / np.linalg.norm(xyz, axis=-1, keepdims=True)
    return unit


def _outline_vectors(cells: Cells, points_per_edge: int) -> Floats:
    face, u_low, u_high, v_low, v_high = (bound[:, None] for bound in _bounds(cells))
    along = np.arange(points_per_edge) / points_per_edge
    u_up, v_up = u_low + (u_high - u_low) * along, v_low + (v_high - v_low) * along
    u_down, v_down = u_high + (u_low - u_high) * along, v_high + (v_low - v_high) * along
    still = np.ones_like(along)
    u = np.concatenate([u_up, u_high * still, u_down, u_low * still], axis=1)
    v = np.concatenate([v_low * still, v_up, v_high * still, v_down], axis=1)
    return _to_xyz(np.broadcast_to(face, u.shape), u, v)
