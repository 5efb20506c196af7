"""Answers on a coarse scale, for those who publish a model that could find people.

All that is told of a photo is a function of one :class:`Released`: a coarse cell, and the probabilities of coarse cells
to a power of two. What is asked of it afterwards (a circle around a claimed place, a region, names) can tell no more.

A photo asked again with other crops gives a point that moves a little; where it moves over the border of two cells, the
border gives its place away. So borders are secret: each cell of S2 has a site at a place that only a key tells, and a
point belongs to the cell whose site is nearest. What is told is the cell, not the site, so that an answer that flips
between two cells tells that the point lies somewhere between them, on a line unknown to about half a cell.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from graticule.geo import s2
from graticule.geo.areas import Area, shares_in
from graticule.geo.outlines import polygons_of
from graticule.geo.sphere import EARTH_RADIUS_KM, Floats, great_circle_km, unit_vectors
from graticule.geo.towns import nearest_in_words
from graticule.inference.claims import Claim, Place
from graticule.inference.decode import CellGuess, Fix
from graticule.inference.names import Names, PlaceGuess

Cells = NDArray[np.uint64]
MIN_WIDTH = 2 * np.sqrt(2) / 3  # radians, of a cell of level 0; halves with each (s2metrics.cc, quadratic projection)
FINEST_SHARE = 2.0**-10  # probabilities below are not told
MOST_CELLS = 400
REACH, STEPS = 2.25, 7  # where a nearest site may be, in widths of a cell, and how many points look there each way
REGIONS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Released:
    """All that is told of a photo.

    Attributes:
        at: the coarse cell of the answer's point.
        cells: coarse cells, likeliest first, shape ``(U,)``; ``mass`` of each, powers of two but for one factor.
    """

    at: int
    cells: Cells
    mass: Floats


@dataclass(frozen=True, eq=False)
class Coarse:
    """Coarse cells with secret borders.

    Attributes:
        km: no cell is narrower.
        key: that the borders are drawn with, at most 64 bytes. Whoever has it, or the model, needs no answers.
    """

    km: float
    key: bytes

    @property
    def level(self) -> int:
        """The finest level of S2 whose narrowest cell is as wide."""
        return int(np.clip(np.floor(np.log2(MIN_WIDTH * EARTH_RADIUS_KM / self.km)), 0, s2.MAX_LEVEL - 8))

    def assign(self, lat: Floats, lon: Floats) -> Cells:
        """The coarse cell of each point, shape ``(N,)``; degrees."""
        out = np.empty(len(lat), np.uint64)
        for start in range(0, len(lat), 256):
            some = slice(start, start + 256)
            out[some] = self._assign(unit_vectors(lat[some], lon[some]))
        return out

    def release(self, point: Place, lat: Floats, lon: Floats, mass: Floats) -> Released:
        """What is told of a photo: its point, and a belief given as masses of points, both in degrees."""
        return self.summed(point, self.assign(lat, lon), mass)

    def summed(self, point: Place, cells: Cells, mass: Floats) -> Released:
        """As :meth:`release`, where the cells of the masses were assigned before: they are the same for all photos."""
        at = int(self.assign(np.array(point[:1]), np.array(point[1:]))[0])
        found, row = np.unique(cells, return_inverse=True)
        total = np.bincount(row.ravel(), weights=mass, minlength=len(found))
        told = np.exp2(np.round(np.log2(np.maximum(total, 1e-12))))
        keep = np.flatnonzero(told >= FINEST_SHARE)
        if not len(keep):  # nothing is likely anywhere: the likeliest few are told alike
            keep = np.argsort(-total, kind="stable")[:1]
        keep = keep[np.argsort(-told[keep], kind="stable")][:MOST_CELLS]
        return Released(at, found[keep], told[keep] / told[keep].sum())

    def _assign(self, points: Floats) -> Cells:
        width = MIN_WIDTH / 2**self.level
        east = np.cross([0.0, 0.0, 1.0], points)
        flat = np.linalg.norm(east, axis=1, keepdims=True)
        east = np.where(flat > 1e-9, east / np.maximum(flat, 1e-9), [1.0, 0.0, 0.0])
        north = np.cross(points, east)
        steps = np.linspace(-REACH, REACH, STEPS) * width
        x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
        near = points[:, None] + x[:, None] * east[:, None] + y[:, None] * north[:, None]
        lat = np.degrees(np.arctan2(near[..., 2], np.hypot(near[..., 0], near[..., 1])))
        lon = np.degrees(np.arctan2(near[..., 1], near[..., 0]))
        cells = s2.parents(s2.leaf_cells(lat, lon), self.level)
        known, row = np.unique(cells, return_inverse=True)
        sites = unit_vectors(*s2.centers(self._site_cells(known)))[row.reshape(cells.shape)]
        nearest = ((sites - points[:, None]) ** 2).sum(axis=2).argmin(axis=1)
        found: Cells = cells[np.arange(len(cells)), nearest]
        return found

    def _site_cells(self, cells: Cells) -> Cells:
        """A cell 8 levels down in each, which the key chooses."""
        hashes = [hashlib.blake2b(int(cell).to_bytes(8, "big"), key=self.key, digest_size=2) for cell in cells]
        path = np.array([int.from_bytes(each.digest(), "big") for each in hashes], np.intp)
        for shift in range(14, -1, -2):
            cells = s2.children(cells)[np.arange(len(cells)), path >> shift & 3]
        return cells

    def fix(self, told: Released, fix: Fix, top: int) -> Fix:
        """The same answer, with all that is told of places and distances taken from what is released."""
        here = np.array([told.at], np.uint64)
        (lat,), (lon,) = s2.centers(here)
        cell_lat, cell_lon = s2.centers(told.cells)
        off = great_circle_km(lat, lon, cell_lat, cell_lon)
        half, most = (self.error_km(told, share) for share in (0.5, 0.9))
        region = self.region(told, 0.9)
        tokens = s2.to_tokens(told.cells)
        likely = list(zip(tokens, cell_lat, cell_lon, told.mass, strict=True))[:top]
        names = Names.of(cell_lat, cell_lon).likely(told.mass) if fix.calibrated else ()
        return replace(
            fix,
            lat=float(lat),
            lon=float(lon),
            expected_error_km=max(self.km, float(off @ told.mass)),
            cells=tuple(CellGuess(token, float(at), float(on), float(mass)) for token, at, on, mass in likely),
            area_km2=float(s2.areas_km2(region).sum()) if fix.calibrated else None,
            median_error_km=half if fix.calibrated else None,
            p90_error_km=most if fix.calibrated else None,
            unlike_training=None if fix.unlike_training is None else float(np.floor(fix.unlike_training * 20) / 20),
            region=tuple(s2.to_tokens(region)) if fix.calibrated else (),
            cannot_tell=None,
            claim=None,
            near=nearest_in_words([lat], [lon])[0],
            places=names,
            neighbours=(),
            inside=(),
        )

    def error_km(self, told: Released, share: float) -> float:
        """Distance from the answer that a share of what is released lies within, never less than a cell."""
        (lat,), (lon,) = s2.centers(np.array([told.at], np.uint64))
        off = great_circle_km(lat, lon, *s2.centers(told.cells))
        held = np.cumsum(told.mass[order := np.argsort(off, kind="stable")])
        return max(self.km, float(off[order][np.searchsorted(held, share * held[-1])]))

    def region(self, told: Released, coverage: float) -> Cells:
        """The likeliest cells that hold so much together, sorted."""
        before = np.concatenate([[0.0], np.cumsum(told.mass)[:-1]])
        return np.sort(told.cells[before < coverage])

    def weigh(self, told: Released, place: Place, within_km: float | None, calibrated: bool) -> Claim:
        """A claimed place against what is released; the circle around it is never narrower than a cell."""
        (lat,), (lon,) = s2.centers(np.array([told.at], np.uint64))
        claim = Claim(*place, float(great_circle_km(lat, lon, *place)))
        if not calibrated:
            return claim
        radius_km = max(within_km or self.km, self.km)
        own = self.row_of(told, place)
        inside = next(
            (share for share in REGIONS if own is not None and told.cells[own] in self.region(told, share)), None
        )
        return replace(
            claim,
            within_km=radius_km,
            probability=float(told.mass @ s2.shares_within(told.cells, *place, radius_km)),
            region=inside,
        )

    def inside(self, told: Released, areas: Sequence[Area]) -> tuple[PlaceGuess, ...]:
        """How much of what is released lies in each area."""
        shapes = [area.shape if area.cells is None else polygons_of(area.cells)[0] for area in areas]
        shares = [float(shares_in(told.cells, shape) @ told.mass) for shape in shapes]
        return tuple(PlaceGuess(area.name, min(share, 1.0)) for area, share in zip(areas, shares, strict=True))

    def row_of(self, told: Released, place: Place) -> int | None:
        """The released cell, as S2 draws it, that holds a place."""
        cell = s2.parents(s2.leaf_cells([place[0]], [place[1]]), self.level)
        rows = np.flatnonzero(told.cells == cell[0])
        return int(rows[0]) if len(rows) else None
