"""Classes as the leaves of a tree of S2 cells: what a hierarchy of softmaxes runs down."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from graticule.geo import s2
from graticule.geo.sphere import Ints


@dataclass(frozen=True, eq=False)
class Tree:
    """Where the way down from the sphere to each of C classes branches; steps without a choice are left out.

    Attributes:
        nodes: N, how many nodes have siblings; they are numbered from 0.
        siblings: the nodes between which each of G branchings decides, shape ``(G, K)``, filled up with N.
        path: the nodes on the way to each class, from above, shape ``(C, D)``, filled up with N. A class that holds
            others, as nested cells do, ends as a child of its own cell: what of it none of the others holds.
    """

    nodes: int
    siblings: Ints
    path: Ints

    @classmethod
    def of(cls, cells: s2.Cells) -> Self:
        """The tree of C classes that lie in these S2 cells, of any level, shape ``(C,)``; several may lie in one."""
        own = s2.level_of(cells)
        above = np.zeros(len(cells), np.int64)  # the cell of each class one step up, as a number
        path, parents, count = [], [], 0
        for level in range(s2.MAX_LEVEL + 2):
            key = np.arange(len(cells), dtype=np.uint64)  # at last each class by itself
            if level <= s2.MAX_LEVEL:
                key = cells.copy()
                key[own > level] = s2.parents(cells[own > level], level)
            _, first, here = np.unique(key, return_index=True, return_inverse=True)
            parent = above[first]
            chosen = np.bincount(parent)[parent] > 1
            if chosen.any():
                number = np.full(len(first), -1)
                number[chosen] = count + np.arange(chosen.sum())
                count += int(chosen.sum())
                path.append(number[here])
                parents.append(level * len(cells) + parent[chosen])
            above = here
        if not count:
            return cls(0, np.empty((0, 0), np.int64), np.empty((len(cells), 0), np.int64))
        _, row, size = np.unique(np.concatenate(parents), return_inverse=True, return_counts=True)
        siblings = np.full((len(size), size.max()), count)
        order = np.argsort(row, kind="stable")
        siblings[row[order], np.arange(count) - np.repeat(np.cumsum(size) - size, size)] = order
        ways = np.stack(path, axis=1)
        return cls(count, siblings, np.where(ways < 0, count, ways))
