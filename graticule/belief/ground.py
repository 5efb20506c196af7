"""The ground a belief stands on: S2 cells of many levels, fine where photos may be; regions are unions of them."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from graticule.belief import kernels
from graticule.belief.density import SCALES, SPHERE_KM2, Belief, Kernels, Shape
from graticule.belief.mixture import Mixture
from graticule.geo import s2
from graticule.geo.sphere import Floats, Ints, chord_to_km, chords, great_circle_km, unit_vectors

Cells = NDArray[np.uint64]

DRAWS = 2**18  # from the density that says nothing of any photo; they decide where the ground is fine
MOST_DRAWS = 96  # in one ground cell; so there are some thousands
FINEST = 24  # level of S2 whose cells are 0.6 m wide
LEAST_SHARE = 1e-4  # of a photo, by a part of a mixture that is worth laying out
MASS = 0.999  # of a photo's weights is followed to the ground; the rest is taken for the map's
MOST_CENTERS = 512  # of each kind are followed for one photo
AT_ONCE = 16  # photos; all their centers together fill what is kept
MEASURED = 16  # centers at a time: what is made of them on the way stays near the processor
KEPT = 2**28  # bytes of kernels on the ground that are kept


@dataclass(frozen=True, eq=False)
class Cover:
    """A cover of the sphere by G S2 cells, and what masses on them tell.

    Attributes:
        cells: ids, sorted, shape ``(G,)``; none lies in another, and together they are the whole sphere.
    """

    cells: Cells

    @cached_property
    def area_km2(self) -> Floats:
        """Shape ``(G,)``."""
        return s2.areas_km2(self.cells)

    @cached_property
    def _middle(self) -> tuple[Floats, Floats]:
        return s2.centers(self.cells)

    @property
    def lat(self) -> Floats:
        """Of the middles, degrees, shape ``(G,)``."""
        return self._middle[0]

    @property
    def lon(self) -> Floats:
        return self._middle[1]

    @cached_property
    def _middles(self) -> Floats:
        return unit_vectors(*self._middle)

    def row_of(self, lat: Floats, lon: Floats) -> Ints:
        """The ground cell that each point lies in."""
        row: Ints = np.searchsorted(s2.range_max(self.cells), s2.leaf_cells(lat, lon), "left")
        return row

    def needed_mass(self, masses: Floats, row: Ints) -> Floats:
        """Mass of the smallest region that reaches a ground cell, without that cell; of each photo, ``(N,)``.

        :meth:`region` of that mass or more holds the cell, and of less leaves it out.
        """
        found = np.empty(len(row))
        for n, own in enumerate(row):
            order, before = self._by_density(masses[n])
            found[n] = before[np.flatnonzero(order == own)[0]]
        return found

    def searched_km2(self, masses: Floats, row: Ints) -> Floats:
        """Area of the smallest region that holds a ground cell, with that cell; of each photo, ``(N,)``.

        So much is to be searched, densest ground first, until a truth in that cell is found: the area of recall
        against area (RvA; Bianco, Eigen, Gormish, arXiv 2407.13862).
        """
        found = np.empty(len(row))
        for n, own in enumerate(row):
            order, _ = self._by_density(masses[n])
            found[n] = self.area_km2[order[: np.flatnonzero(order == own)[0] + 1]].sum()
        return found

    def region(self, masses: Floats, mass: float) -> Ints:
        """Rows of the smallest set of ground cells that holds more than ``mass`` of one photo's masses ``(G,)``."""
        order, before = self._by_density(masses)
        return np.sort(order[before <= mass])

    def mass_within(self, masses: Floats, lat: float, lon: float, radius_km: float) -> float:
        """Probability by one photo's masses ``(G,)`` that it was taken within a circle; degrees."""
        near = great_circle_km(lat, lon, self.lat, self.lon) < radius_km + self._reach_km
        return float(masses[near] @ s2.shares_within(self.cells[near], lat, lon, radius_km))

    def mass_of(self, masses: Floats, cells: Cells) -> Floats:
        """Probability of S2 cells of any levels by one photo's masses ``(G,)``, shape ``(C,)``."""
        first, last, share = s2.shares_of(cells, self.cells)
        held = np.concatenate([[0.0], np.cumsum(masses)])
        found: Floats = (held[last] - held[first]) * share
        return found

    @cached_property
    def _reach_km(self) -> Floats:
        """Distance from the middle of each cell to its farthest corner, shape ``(G,)``."""
        reach: Floats = great_circle_km(self.lat[:, None], self.lon[:, None], *s2.outlines(self.cells)).max(axis=1)
        return reach

    def _by_density(self, masses: Floats) -> tuple[Ints, Floats]:
        """Ground cells of one photo, densest first, and the mass of those before each; both ``(G,)``."""
        order = np.argsort(-masses / self.area_km2, kind="stable")
        return order, np.concatenate([[0.0], np.cumsum(masses[order])[:-1]])

    def merged(self, rows: Ints) -> Cells:
        """The same ground in as few S2 cells as there can be: four siblings are their parent."""
        cells = np.sort(self.cells[rows])
        whole = np.sort(cells[s2.level_of(cells) == 0])  # faces have no parent
        cells = np.setdiff1d(cells, whole)
        at = np.zeros(1, np.int64)
        while len(at):
            parent = s2.parents(cells)
            # Siblings stand side by side; what lies between the first and the last of them is the other two, since
            # none of these cells lies in another.
            same = (parent[:-3] == parent[1:-2]) & (parent[:-3] == parent[2:-1]) & (parent[:-3] == parent[3:])
            at = np.flatnonzero(same)
            cells[at] = parent[at]
            cells = np.delete(cells, (at[:, None] + np.arange(1, 4)).ravel())
            faces = s2.level_of(cells) == 0
            whole, cells = np.concatenate([whole, cells[faces]]), cells[~faces]
        return np.sort(np.concatenate([whole, cells]))

    def summary(self, masses: Floats, share: float, most: int) -> tuple[Cells, Floats]:
        """A belief for a map: at most ``most`` cells, their parents where there are more, and the mass of each.

        Args:
            masses: of one photo, shape ``(G,)``.
            share: of the mass that the densest ground cells shown hold together.
        """
        cells = self.cells[self.region(masses, share)]
        finest = int(s2.level_of(cells).max(initial=0))
        while len(cells) > most and finest:
            finest -= 1
            fine = s2.level_of(cells) > finest
            cells = np.unique(np.concatenate([cells[~fine], s2.parents(cells[fine], finest)]))
        return cells, self.mass_of(masses, cells)

    def distance_quantiles(self, masses: Floats, lat: Floats, lon: Floats, shares: tuple[float, ...]) -> Floats:
        """Distances from each photo's point that hold these shares of its belief, km, shape ``(N, len(shares))``."""
        out = np.empty((len(masses), len(shares)))
        for n in range(len(masses)):
            distance = chord_to_km(chords(unit_vectors(lat[n], lon[n]), self._middles))
            order = np.argsort(distance)
            held = np.cumsum(masses[n, order])
            out[n] = distance[order][np.searchsorted(held, np.array(shares) * held[-1])]
        return out


@dataclass(frozen=True, eq=False)
class Ground(Cover):
    """A cover for the beliefs of one model.

    Attributes:
        shape, centers: of the beliefs that are laid on it; centers are those of cells and of known photos.
    """

    shape: Shape
    centers: tuple[Kernels, Kernels]
    _rows: dict[tuple[int, int], NDArray[np.float32]] = field(init=False, repr=False, default_factory=dict)

    @cached_property
    def _points(self) -> Floats:
        """Middles of the first children of all cells, then of the second ones, and so on, shape ``(4 G, 3)``."""
        return unit_vectors(*s2.centers(s2.children(self.cells).T.ravel()))

    @classmethod
    def of(cls, belief: Belief, seed: int = 0) -> Self:
        """Ground that is fine where any photo's belief with these centers may be, coarse elsewhere.

        Grown as PlaNet grows cells (arXiv 1602.05314, section 3.1), from draws of the belief that weighs all cells and
        all known photos alike; no cell is dropped.
        """
        even = Belief(
            belief.shape,
            belief.cells,
            belief.known,
            np.full((1, len(belief.cells)), 1 / len(belief.cells)),
            np.full((1, len(belief.known)), 1 / len(belief.known)),
        )
        lat, lon = even.samples(DRAWS, seed)
        leaves = np.sort(s2.leaf_cells(lat[0], lon[0]))
        done: list[Cells] = []
        cells = s2.face_cells()
        for _ in range(FINEST):
            inside = np.searchsorted(leaves, s2.range_max(cells), "right") - np.searchsorted(
                leaves, s2.range_min(cells), "left"
            )
            done.append(cells[inside <= MOST_DRAWS])
            cells = s2.children(cells[inside > MOST_DRAWS]).ravel()
        return cls(np.sort(np.concatenate([*done, cells])), belief.shape, (belief.cells, belief.known))

    def under(self, belief: Belief) -> Self:
        """The same cells for beliefs of another shape and other centers, such as those of photos together."""
        return replace(self, shape=belief.shape, centers=(belief.cells, belief.known))

    def masses(self, belief: Belief) -> Floats:
        """Probability of each ground cell by each photo's belief, rows that sum to one, shape ``(N, G)``."""
        out = np.tile(self._without_photo, (len(belief), 1))
        for kind, weights, shares in (
            (0, belief.cell_weight, np.array(self.shape.cells)),
            (1, belief.known_weight, np.array(self.shape.gallery)),
        ):
            if shares.sum() > 0:
                for start in range(0, len(belief), AT_ONCE):
                    some = slice(start, start + AT_ONCE)
                    out[some] += self._laid(kind, weights[some], shares)
        found: Floats = out / out.sum(axis=1, keepdims=True)
        return found

    def _laid(self, kind: int, weights: Floats, shares: Floats) -> NDArray[np.float32]:
        """Mass of centers weighed by n photos on each ground cell, shape ``(n, G)``."""
        from scipy.sparse import csr_array

        likely = [_likeliest(row) for row in weights]
        share = [row[index] * (shares.sum() / row[index].sum()) for row, index in zip(weights, likely, strict=True)]
        index = np.concatenate(likely)
        used = np.unique(index)
        ends = np.cumsum([0, *map(len, likely)])
        # Summed in each photo's own order, so that it gets the same masses whoever is asked about beside it.
        followed = csr_array(
            (np.concatenate(share).astype(np.float32), np.searchsorted(used, index), ends),
            shape=(len(weights), len(used)),
        )
        found: NDArray[np.float32] = followed @ self._kernel_rows(kind, used, shares)
        return found

    def _kernel_rows(self, kind: int, index: Ints, shares: Floats) -> NDArray[np.float32]:
        """Mass of these centers' kernels on each ground cell, rows that sum to one, shape ``(len(index), G)``."""
        missing = [int(i) for i in index if (kind, int(i)) not in self._rows]
        if (len(self._rows) + len(missing)) * len(self.cells) * 4 > KEPT:
            self._rows.clear()
            missing = index.tolist()
        for start in range(0, len(missing), MEASURED):
            some = missing[start : start + MEASURED]
            rows = self._measure(self.centers[kind], np.array(some), shares)
            self._rows.update({(kind, i): row for i, row in zip(some, rows, strict=True)})
        return np.stack([self._rows[kind, int(i)] for i in index])

    @cached_property
    def _without_photo(self) -> Floats:
        """Mass of what is the same for all photos: the map's share and anywhere's, shape ``(G,)``."""
        mass: Floats = self.shape.anywhere * self.area_km2 / SPHERE_KM2
        where, shares = self.centers[1], np.array(self.shape.map)
        if shares.sum() > 0:
            for start in range(0, len(where), MEASURED):
                rows = self._measure(where, np.arange(start, min(start + MEASURED, len(where))), shares)
                mass = mass + shares.sum() / len(where) * rows.sum(axis=0, dtype=np.float64)
        return mass

    def _measure(self, where: Kernels, index: Ints, shares: Floats) -> NDArray[np.float32]:
        distance = chord_to_km(chords(where.center[index], self._points)).astype(np.float32)
        density = np.zeros_like(distance)
        of_width = np.bincount(where.first, shares, SCALES)
        for k in np.flatnonzero(of_width > 1e-3 * shares.sum()):
            width = where.width_km[index, k, None]
            top = kernels.log_density(0.0, width).astype(np.float32)
            density += of_width[k].astype(np.float32) * np.exp(top - distance / width.astype(np.float32))
        mass = density.reshape(len(index), 4, -1).mean(axis=1) * self.area_km2.astype(np.float32)
        rows: NDArray[np.float32] = mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-30)
        return rows


@dataclass(frozen=True, eq=False)
class Joined(Cover):
    """A cover for mixtures: everywhere the finer of the covers that their parts are laid on.

    Attributes:
        parts: the ground of each part, in the mixture's order.
    """

    parts: tuple[Ground, ...]

    @classmethod
    def of(cls, parts: tuple[Ground, ...]) -> Self:
        every = np.unique(np.concatenate([part.cells for part in parts]))
        inside = np.searchsorted(every, s2.range_max(every), "right") - np.searchsorted(every, s2.range_min(every))
        return cls(every[inside == 1], parts)

    def masses(self, mixture: Mixture) -> Floats:
        """As of :class:`Ground`. A part's mass is spread evenly where another part's cells are finer."""
        out = np.zeros((len(mixture), len(self.cells)))
        for belief, ground, (row, inside), share in zip(
            mixture.parts, self.parts, self._spread, mixture.share.T, strict=True
        ):
            asked = np.flatnonzero(share > LEAST_SHARE)
            if len(asked):
                out[asked] += share[asked, None] * ground.masses(belief.take(asked))[:, row] * inside
        found: Floats = out / out.sum(axis=1, keepdims=True)
        return found

    @cached_property
    def _spread(self) -> list[tuple[Ints, Floats]]:
        """For each part the cell of its ground that each cell lies in, and what share of that it is."""
        found = []
        for part in self.parts:
            row = np.searchsorted(s2.range_max(part.cells), self.cells, "left")
            found.append((row, self.area_km2 / np.bincount(row, self.area_km2, len(part.cells))[row]))
        return found


def _likeliest(weights: Floats) -> Ints:
    """The centers that hold ``MASS`` of the weights, likeliest first, ``MOST_CENTERS`` at most."""
    most = min(MOST_CENTERS, len(weights))
    top = np.argpartition(-weights, most - 1)[:most]
    top = top[np.argsort(-weights[top], kind="stable")]
    held = np.cumsum(weights[top])
    return top[: int(np.searchsorted(held, MASS * weights.sum())) + 1]
