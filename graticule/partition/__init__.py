"""Divisions of the map: the classes of the classifier, and how a photo finds its own.

Adaptive cells of S2 are the default; a quantile grid, clusters, clusters within cells, the values of a column and
points stand beside them. All are a :class:`Partition`: positions to rows, the middle of each row, its outline.
"""

from pathlib import Path

from numpy.typing import ArrayLike

from graticule.choices import Keep, PartitionKind
from graticule.errors import BadRecipeError, BadTableError
from graticule.partition.base import KIND, NO_CELL, Partition
from graticule.partition.cells import CellPartition
from graticule.partition.clusters import GaussianPartition, KMeansPartition
from graticule.partition.grid import GridPartition
from graticule.partition.labels import LabelPartition
from graticule.partition.points import PointPartition
from graticule.partition.semantic import SemanticPartition

__all__ = [
    "NO_CELL",
    "CellPartition",
    "GaussianPartition",
    "GridPartition",
    "KMeansPartition",
    "LabelPartition",
    "Partition",
    "PointPartition",
    "SemanticPartition",
    "grow",
    "read_partition",
]

KINDS: dict[str, type[Partition]] = {
    one.kind: one
    for one in (
        CellPartition,
        GridPartition,
        KMeansPartition,
        GaussianPartition,
        SemanticPartition,
        LabelPartition,
        PointPartition,
    )
}


def grow(
    lat: ArrayLike,
    lon: ArrayLike,
    kind: PartitionKind = "s2",
    *,
    split_above: int = 1000,
    drop_below: int = 50,
    max_level: int = 18,
    keep: Keep = "planet",
    rows: int = 0,
    columns: int = 0,
    clusters: int = 0,
    min_cluster_size: int = 50,
    label: str = "",
    labels: ArrayLike = (),
    seed: int = 0,
) -> Partition:
    """Divide the map by the positions of N photos.

    Args:
        lat, lon: shape ``(N,)``, degrees.
        kind: ``s2``, see :meth:`CellPartition.fit`; ``grid``, see :meth:`GridPartition.fit`; ``kmeans`` and
            ``gaussian``, see :meth:`KMeansPartition.fit`; ``semantic``, see :meth:`SemanticPartition.fit`; ``label``,
            see :meth:`LabelPartition.fit`; ``points``: each different position is a class.
        split_above, max_level: of ``s2`` and ``semantic``.
        drop_below, keep: of ``s2``.
        rows, columns: of ``grid``.
        clusters: of ``kmeans`` and ``gaussian``.
        min_cluster_size: of ``semantic``.
        label, labels: of ``label``: the name of the column, and its values, shape ``(N,)``.
        seed: of ``kmeans`` and ``gaussian``.

    Raises:
        BadRecipeError: a setting is impossible for these photos, or the kind is unknown.
        BadCoordinateError: a position is off the globe.
        BadTableError: there are no photos.
    """
    match kind:
        case "s2":
            return CellPartition.fit(
                lat, lon, split_above=split_above, drop_below=drop_below, max_level=max_level, keep=keep
            )
        case "grid":
            return GridPartition.fit(lat, lon, rows=rows, columns=columns)
        case "kmeans":
            return KMeansPartition.fit(lat, lon, clusters=clusters, seed=seed)
        case "gaussian":
            return GaussianPartition.fit(lat, lon, clusters=clusters, seed=seed)
        case "semantic":
            return SemanticPartition.fit(
                lat, lon, split_above=split_above, min_cluster_size=min_cluster_size, max_level=max_level
            )
        case "label":
            return LabelPartition.fit(lat, lon, labels, column=label)
        case "points":
            return PointPartition.fit(lat, lon)
        case _:
            raise BadRecipeError(f"kind={kind!r} is unknown; valid are {', '.join(KINDS)}")


def read_partition(path: Path) -> Partition:
    """Read what :meth:`Partition.write` wrote; a file that names no kind holds cells of S2.

    Raises:
        BadTableError: the file is missing, not Parquet, lacks a column, or does not hold a partition.
    """
    import polars as pl

    try:
        table, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadTableError(
            f"{path} cannot be read as a Parquet file of cells ({error}); make one with 'graticule cells'"
        ) from error
    kind = metadata.get(KIND, CellPartition.kind)
    if kind not in KINDS:
        raise BadTableError(f"{path} holds cells of the kind {kind!r}; this version reads {', '.join(KINDS)}")
    columns = {name: table[name].to_numpy(writable=True) for name in table.columns}
    try:
        return KINDS[kind]._from_columns(columns, metadata)
    except KeyError as error:
        raise BadTableError(
            f"{path} has no column {error.args[0]}; it has {', '.join(table.columns)}. "
            f"Cells come from 'graticule cells'"
        ) from error
    except (TypeError, ValueError) as error:
        raise BadTableError(f"{path} does not hold a partition: {error}") from error
