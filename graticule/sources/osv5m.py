"""OpenStreetView-5M (Astruc et al., CVPR 2024) from the hub or a local copy, and the ten-state subset of report B.

The hub's dataset ``osv5m/osv5m`` holds ``train.csv`` (2.9 GB), ``test.csv`` and zips of some 50,000 photos each:
``images/train/00.zip`` to ``97.zip``, ``images/test/00.zip`` to ``04.zip``. Its test photos lie apart from its training
photos, so the column ``split`` is the official one. The photos are Mapillary's, under CC-BY-SA 4.0.
"""

import difflib
import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import polars as pl

from graticule.errors import BadPhotoError, BadRecipeError, BadTableError, SourceError
from graticule.files import write_bytes
from graticule.photos import images
from graticule.sources.folder import photo_paths
from graticule.sources.ingest import MAX_REFUSED, Refusal, ingest
from graticule.sources.web.hub import SKIP, STREAM, RemoteFile, hub_file, hub_names, hub_open

Told = Callable[[int, int, str], None]

REPO = "osv5m/osv5m"
PARTS = ("train", "test")
FACTS = {
    "origin": f"https://huggingface.co/datasets/{REPO}",
    "licence": "CC-BY-SA-4.0",
    "split_by": "the authors: test photos lie apart from training photos",
}
NUMBERS = ("land_cover", "road_index", "drive_side", "climate", "soil", "dist_sea", "quadtree_10_1000")
MINI_STATES = (
    "Texas", "Kansas", "Oregon", "Nevada", "Oklahoma", "Montana", "Idaho", "Nebraska", "New Mexico", "Wyoming",
)  # fmt: skip
MINI_PHOTOS = 129_083  # report B, datasheet, "Composition"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which photos are wanted of each part.

    Attributes:
        countries: ISO 3166 codes; empty for all.
        regions: as the table's column ``region`` names them; empty for all.
        box: south, west, north, east in degrees; west > east reaches over the 180th meridian.
        share: of the part's zips, in (0, 1], rounded up, the first by name; of an unpacked copy, the photos whose
            id has a SHA-256 in that share of all.
        limit: photos, at least 1: zip by zip, and of the last zip those whose id has the smallest SHA-256.
    """

    countries: Sequence[str] = ()
    regions: Sequence[str] = ()
    box: tuple[float, float, float, float] | None = None
    share: float = 1.0
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or (self.limit is not None and self.limit < 1):
            raise BadRecipeError(
                f"share {self.share:g} and limit {self.limit} choose nothing: a share lies in (0, 1], a limit is 1 or "
                f"more"
            )

    def of(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """The rows in these countries, regions and box."""
        if self.countries:
            table = table.filter(pl.col("country").str.to_uppercase().is_in([name.upper() for name in self.countries]))
        if self.regions:
            table = table.filter(pl.col("region").str.to_lowercase().is_in([name.lower() for name in self.regions]))
        if self.box:
            south, west, north, east = self.box
            lat, lon = pl.col("lat"), pl.col("lon")
            across = lon.is_between(west, east) if west <= east else (lon >= west) | (lon <= east)
            table = table.filter(lat.is_between(south, north) & across)
        return table


def import_osv5m(
    out: Path,
    selection: Selection | None = None,
    *,
    parts: Sequence[str] = PARTS,
    local: Path | None = None,
    max_refused: float = MAX_REFUSED,
    progress: Told | None = None,
) -> Path:
    """Make a dataset of OpenStreetView-5M, or of a part of it, with its official split.

    Of each zip the index is read, then the wanted photos, by HTTP range: no zip is kept, and where less than a quarter
    of it is wanted the rest hardly travels. A photo that lies in ``out/images`` is not fetched again, so a run that
    was cut short goes on.
    The rule that chose the photos is written into ``dataset.json``.

    Args:
        parts: ``train``, ``test`` or both.
        local: a folder laid out as the hub's, its photos in zips or unpacked, instead of the hub.
        progress: called with (done, total, what is done).

    Raises:
        BadTableError: no such local folder, no photo fits, or a zip cannot be opened.
        SourceError: the hub cannot be reached; run it again.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.ingest.ingest`.
    """
    wanted, files = selection or Selection(), _Files(local)
    tables = {part: wanted.of(_scan(files.table(part))).collect(engine="streaming") for part in parts}
    if not any(map(len, tables.values())):
        raise BadTableError(_nothing(files, wanted, parts))
    rule = {"parts": list(parts), **asdict(wanted)}
    return _make(out, tables, files, wanted, "osv5m", rule, max_refused, progress)


def import_osv_mini(
    out: Path, *, local: Path | None = None, max_refused: float = MAX_REFUSED, progress: Told | None = None
) -> Path:
    """Make report B's subset of OpenStreetView-5M: ten US states, 129,083 training photos, the official test.

    How the published copy (Kaggle, ``josht000/osv-mini-129k``) was drawn is not published. Rebuilt by rule, it is the
    training photos in these states whose id has the smallest SHA-256, and all official test photos in them.

    Args:
        local: the Kaggle copy (any tables with ``id, latitude, longitude`` named after their part, such as
            ``train_mini.csv``, and photos called by their id anywhere below), taken as it is; or a copy of
            OpenStreetView-5M itself, for the rule.

    Raises:
        BadTableError, SourceError, TooManyRefusedError, WriteError: as :func:`import_osv5m`.
    """
    if local and local.is_dir() and not (local / "train.csv").is_file():
        return _import_copy(local, out, max_refused, progress)
    wanted, files = Selection(("US",), MINI_STATES), _Files(local)
    tables = {part: wanted.of(_scan(files.table(part))).collect(engine="streaming") for part in PARTS}
    if not any(map(len, tables.values())):
        raise BadTableError(_nothing(files, wanted, PARTS))
    tables["train"] = _smallest(tables["train"], MINI_PHOTOS)
    rule = {**asdict(wanted), "train": f"the {MINI_PHOTOS:,} photos whose id has the smallest SHA-256", "test": "all"}
    return _make(out, tables, files, wanted, "osv-mini", rule, max_refused, progress)


@dataclass(frozen=True, slots=True)
class _Files:
    """The dataset's files, on the hub or in a local copy of the same layout."""

    local: Path | None

    def table(self, part: str) -> Path:
        if self.local is None:
            return hub_file(REPO, f"{part}.csv")
        if not (self.local / f"{part}.csv").is_file():
            raise BadTableError(f"{self.local} has no {part}.csv; give a folder laid out as {FACTS['origin']}")
        return self.local / f"{part}.csv"

    def zips(self, part: str) -> list[str]:
        if self.local is None:
            names = hub_names(REPO)
        else:
            names = sorted(path.relative_to(self.local).as_posix() for path in self.local.glob(f"images/{part}/*.zip"))
        return [name for name in names if name.startswith(f"images/{part}/") and name.endswith(".zip")]

    def open(self, name: str) -> RemoteFile | io.BufferedReader:
        return hub_open(REPO, name) if self.local is None else (self.local / name).open("rb")


def _make(
    out: Path,
    tables: Mapping[str, pl.DataFrame],
    files: _Files,
    wanted: Selection,
    source: str,
    rule: Mapping[str, Any],
    max_refused: float,
    progress: Told | None,
) -> Path:
    found: list[pl.DataFrame] = []
    refused: list[Refusal] = []
    opened: list[str] = []
    for part, table in tables.items():
        zips = files.zips(part)
        zips = zips[: math.ceil(wanted.share * len(zips))]
        if zips:
            rows, broken, these = _unpack(files, zips, table, out, wanted.limit, progress)
            refused += broken
            opened += these
            if wanted.share == 1 and wanted.limit is None:  # what no zip holds is refused as missing, not forgotten
                known = {*rows["id"], *(PurePosixPath(path).stem for path, _, _ in broken)}
                gone = table.filter(~pl.col("id").is_in(known))
                rows = pl.concat([rows, gone.with_columns(path=f"images/{part}/" + pl.col("id") + ".jpg")])
        elif files.local:
            some = table.filter(pl.Series([_digest(i) < wanted.share * 2**256 for i in table["id"]], dtype=pl.Boolean))
            rows = _named(some if wanted.limit is None else _smallest(some, wanted.limit), files.local)
        else:
            raise SourceError(f"{FACTS['origin']} has no images/{part}/*.zip any more; give a local copy with --local")
        found.append(rows.with_columns(split=pl.lit(part)))
    facts = {**FACTS, "selection": {**rule, "zips": opened}}
    return _admit(pl.concat(found), out, source, facts, refused, max_refused, progress)


def _import_copy(local: Path, out: Path, max_refused: float, progress: Told | None) -> Path:
    tables = []
    for file in sorted(local.rglob("*.csv")):
        if {"id", "latitude", "longitude"} <= set(_csv(file).collect_schema().names()):
            part = next((part for part in ("train", "val", "test") if part in file.stem.lower()), None)
            tables.append(_scan(file).collect(engine="streaming").with_columns(split=pl.lit(part, pl.String)))
    if not tables:
        raise BadTableError(
            f"{local} holds neither OpenStreetView-5M (train.csv, test.csv, images/) nor a table with the columns id, "
            f"latitude, longitude, such as train_mini.csv; give the folder that the archive was unpacked into"
        )
    rows = _named(pl.concat(tables, how="diagonal"), local)
    if rows["split"].null_count():
        rows = rows.drop("split")
    return _admit(rows, out, "osv-mini", {**FACTS, "copy": "josht000/osv-mini-129k"}, (), max_refused, progress)


def _admit(
    rows: pl.DataFrame,
    out: Path,
    source: str,
    facts: Mapping[str, Any],
    refused: Sequence[Refusal],
    max_refused: float,
    progress: Told | None,
) -> Path:
    empty = [name for name in ("country", "region") if rows[name].null_count() == len(rows)]
    return ingest(
        rows.drop(empty),  # the table says nothing, so that the intake finds the country
        out,
        out,
        source=source,
        max_refused=max_refused,
        progress=None if progress is None else lambda done, total: progress(done, total, "photos"),
        facts=facts,
        refused_before=refused,
    )


def _csv(file: Path) -> pl.LazyFrame:
    return pl.scan_csv(file, infer_schema=False)


def _scan(file: Path) -> pl.LazyFrame:
    """The columns worth keeping, under our names; a row a photo.

    ``captured_at`` comes in milliseconds since 1970 and leaves as text, like every other source's. The links of
    ``thumb_original_url`` ran out long ago and stay behind.
    """
    table = _csv(file)
    names = table.collect_schema().names()
    lacking = [name for name in ("id", "latitude", "longitude") if name not in names]
    if lacking:
        raise BadTableError(f"{file} has no column {lacking[0]!r}; it has: {', '.join(names)}")
    moment = pl.from_epoch(pl.col("captured_at").cast(pl.Float64, strict=False).cast(pl.Int64), "ms")
    creator = pl.col("creator_username") + " on Mapillary" if "creator_username" in names else pl.lit(None)
    return table.select(
        pl.col("id"),
        pl.col("latitude").cast(pl.Float64, strict=False).alias("lat"),
        pl.col("longitude").cast(pl.Float64, strict=False).alias("lon"),
        *([moment.dt.strftime("%Y-%m-%dT%H:%M:%S+00:00").alias("captured_at")] if "captured_at" in names else []),
        pl.col("country") if "country" in names else pl.lit(None, pl.String).alias("country"),
        pl.col("region") if "region" in names else pl.lit(None, pl.String).alias("region"),
        *(pl.col(name) for name in ("sequence", "sub-region", "city") if name in names),
        *(pl.col(name).cast(pl.Float64, strict=False) for name in NUMBERS if name in names),
        pl.lit(FACTS["licence"]).alias("licence"),
        creator.fill_null("Mapillary").alias("attribution"),
    )


def _unpack(
    files: _Files, zips: Sequence[str], table: pl.DataFrame, out: Path, limit: int | None, progress: Told | None
) -> tuple[pl.DataFrame, list[Refusal], list[str]]:
    """Fetch the table's photos from these zips, at most ``limit``, and open no zip beyond those needed.

    Returns:
        The table's rows with their ``path``, what is damaged, and which zips were opened.
    """
    found = [table.clear().with_columns(path=pl.lit("", pl.String))]
    refused: list[Refusal] = []
    opened: list[str] = []
    for name in zips:
        left = min(limit or len(table), len(table)) - sum(map(len, found)) - len(refused)
        if left <= 0:
            break
        opened.append(name)
        try:
            with files.open(name) as file, zipfile.ZipFile(cast(io.BufferedReader, file)) as archive:
                index = {PurePosixPath(i.filename).stem: i for i in archive.infolist() if _is_photo(i.filename)}
                rows = _smallest(table.filter(pl.col("id").is_in(index.keys())), left)
                if isinstance(file, RemoteFile):
                    file.read_ahead(STREAM if 4 * len(rows) >= len(index) else SKIP)
                folder = name.removesuffix(".zip")
                paths = {i: f"{folder}/{PurePosixPath(index[i].filename).name}" for i in rows["id"]}
                # in the order of the file, so that reading runs forward
                for done, i in enumerate(sorted(paths, key=lambda i: index[i].header_offset), 1):
                    try:
                        _keep(archive, index[i], out / paths[i])
                    except BadPhotoError as error:
                        refused.append(Refusal(paths.pop(i), error.reason, f"in {name}: {error}"))
                    if progress:
                        progress(done, len(rows), name)
        except zipfile.BadZipFile as error:
            raise BadTableError(
                f"{name} is no whole zip ({error}); fetch it again, then run the same command: photos that are "
                f"unpacked stay"
            ) from error
        path = pl.DataFrame(
            {"id": list(paths), "path": list(paths.values())}, schema=dict.fromkeys(("id", "path"), pl.String)
        )
        found.append(rows.join(path, on="id", maintain_order="left"))
    return pl.concat(found), refused, opened


def _keep(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path) -> None:
    """Unpack one photo, whole or not at all, unless it is there."""
    if member.file_size > images.MAX_BYTES:
        raise images.too_many_bytes(member.file_size)
    if file.is_file() and file.stat().st_size == member.file_size:
        return
    try:
        data = archive.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BadPhotoError("unreadable", f"its bytes are damaged ({error}); fetch the zip again") from error
    write_bytes(file, data)


def _is_photo(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in images.SUFFIXES


def _named(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """The table with the ``path`` of each photo: the file below the folder that is called by its id."""
    files = {path.stem: path.resolve().as_posix() for path in photo_paths(folder)}
    return table.with_columns(path=pl.Series([files.get(i, f"{i}.jpg") for i in table["id"]], dtype=pl.String))


def _smallest(table: pl.DataFrame, count: int) -> pl.DataFrame:
    """The rows whose id has the smallest SHA-256, in the table's order: no seed, and the same in any language."""
    if len(table) <= count:
        return table
    digests = [_digest(i) for i in table["id"]]
    return table[sorted(sorted(range(len(table)), key=digests.__getitem__)[:count])]


def _digest(id_: str) -> int:
    return int.from_bytes(hashlib.sha256(id_.encode()).digest(), "big")


def _nothing(files: _Files, wanted: Selection, parts: Sequence[str]) -> str:
    """Why nothing fits: an unknown name with its nearest, else the selection as a whole."""
    for column, asked in (("country", wanted.countries), ("region", wanted.regions)):
        known = {
            str(name).lower(): str(name)
            for part in parts
            for name in _scan(files.table(part)).select(pl.col(column).unique()).collect(engine="streaming")[column]
        }
        for name in asked:
            if name.lower() not in known:
                near = difflib.get_close_matches(name.lower(), known, n=3) if column == "region" else sorted(known)[:20]
                names = ", ".join(known[one] for one in near) or ", ".join(sorted(known.values())[:20])
                return f"OpenStreetView-5M knows no {column} {name!r}; it knows {names}"
    return f"no photo of OpenStreetView-5M's {' and '.join(parts)} lies in {wanted}; widen the selection"
