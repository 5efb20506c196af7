"""Global Streetscapes (Hou et al. 2024, https://doi.org/10.1016/j.isprsjprs.2024.06.023): tables, then the photos.

Ten million photos of Mapillary and KartaView in 688 cities, described by tables of the dataset
``NUS-UAL/global-streetscapes`` on the Hugging Face hub: ``data/*.csv`` of gigabytes each, which are fetched whole, and
Parquet copies ``data/parquet/*.parquet``, of which the rows that fit are read. One of these, ``streetscapes.parquet``,
joins the usual tables. The photos themselves come from the two services.
"""

import difflib
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path, PurePosixPath

import polars as pl

from graticule.errors import BadRecipeError, BadTableError, SourceError, note
from graticule.sources.ingest import MAX_REFUSED, Refusal
from graticule.sources.web import kartaview, mapillary
from graticule.sources.web.download import Progress
from graticule.sources.web.hub import hub_file, hub_missing, hub_names, hub_open
from graticule.sources.web.kartaview import KartaView
from graticule.sources.web.mapillary import Mapillary
from graticule.sources.web.service import LICENCE, Service, check_output_folder, download_dataset, narrow, sample
from graticule.sources.web.tables import ALIKE, KEYS, WORTH_SAYING, CsvTable, ParquetTable, Table

REPO = "NUS-UAL/global-streetscapes"
TABLES = {  # of the hub, and those of their columns that photos are chosen by
    "metadata_common_attributes": (
        "lat", "lon", "datetime_local", "year", "month", "day", "hour", "width", "height", "heading",
        "projection_type", "hFoV", "vFoV", "sequence_index", "sequence_id", "sequence_img_count",
    ),
    "simplemaps": (
        "city", "city_ascii", "city_id", "city_lat", "city_lon", "country", "iso2", "iso3", "admin_name", "capital",
        "population", "continent",
    ),
    "contextual": (
        "glare", "lighting_condition", "pano_status", "platform", "quality", "reflection", "view_direction", "weather",
    ),
    "climate": ("koppen_geiger_zone", "zone_description"),
    "season": ("season",),
    "ephem": ("timezone", "utc_offset_s", "calculated_day_night", "hrs_aft_sunrise", "hrs_aft_sunset"),
    "ghsl": ("urban_code", "urban_term"),
    "speed": ("seq_dist_km", "seq_speed_kph", "distance_from_prev_m", "time_from_prev_s"),
    "gadm": ("GID_0", "COUNTRY", "NAME_1", "NAME_2", "NAME_3", "NAME_4", "NAME_5"),
    "osm": ("highway", "type_highway", "maxspeed", "lanes", "oneway", "name"),
}  # fmt: skip
JOINED = "streetscapes"  # the Parquet file of several tables
NEEDED = ("lat", "lon")
KEPT = (
    "datetime_local", "sequence_id", "sequence_index", "heading", "projection_type", "city", "admin_name", "country",
    "iso2", "continent", "city_id", "url",
)  # fmt: skip
OURS = {
    "datetime_local": "captured_at", "sequence_id": "sequence", "projection_type": "camera_type",
    "country": "country_name", "iso2": "country",
}  # fmt: skip
LARGEST_EXACT = 2**53  # of float64; a larger id that went through a float is another's


class SeveralCitiesWarning(UserWarning):
    """More than one city has the name that was asked for."""


def import_streetscapes(
    out: Path,
    *,
    tables: Path | None = None,
    city: str | None = None,
    country: str | None = None,
    continent: str | None = None,
    where: Sequence[tuple[str, str]] = (),
    attributes: Sequence[str] = (),
    since: date | None = None,
    until: date | None = None,
    pano: bool | None = None,
    size: str = "1024",
    limit: int | None = None,
    rate: float = 20,
    at_once: int = 16,
    max_refused: float = MAX_REFUSED,
    with_images: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Make a dataset of the photos of Global Streetscapes that fit; run again, it goes on where it stopped.

    Args:
        tables: a folder of the dataset's CSV or Parquet files; the hub where not given.
        city, country, continent: by name, upper or lower case alike; a country also by its ISO code.
        where: pairs of a column and a value, or a range of numbers ``6..18``; values of one column are
            alternatives, columns all have to fit.
        attributes: further columns to keep; those of ``where`` are kept too.
        since, until, pano, size, limit, with_images: as in :func:`graticule.sources.web.service.collect`.

    Returns:
        ``out``.

    Raises:
        BadTableError: no such table or column, or nothing fits.
        BadRecipeError, SourceError, WriteError, TooManyRefusedError: as in
            :func:`graticule.sources.web.service.collect`.
    """
    check_output_folder(out, "streetscapes", size)
    asked = [*where]
    asked += [
        (name, value) for name, value in (("city", city), ("continent", continent), ("country", country)) if value
    ]
    found, refusals = identified(choose(asked, attributes, tables))
    found = sample(narrow(found, since=since, until=until, pano=pano), limit)
    if found.is_empty():
        raise BadTableError("no photo is left to fetch; ask for other days or kinds of camera")
    services: dict[str, Service] = {}
    if with_images:
        there = set(found["source"])
        services |= {"mapillary": Mapillary.from_environment(size)} if "mapillary" in there else {}
        services |= {"kartaview": KartaView.from_environment(size)} if "kartaview" in there else {}
    return download_dataset(
        found, refusals, services, out, source="streetscapes", size=size, rate=rate, at_once=at_once,
        max_refused=max_refused, with_images=with_images, progress=progress,
    )  # fmt: skip


def choose(
    where: Sequence[tuple[str, str]], attributes: Sequence[str] = (), tables: Path | None = None
) -> pl.DataFrame:
    """The rows that fit, one a photo, with the columns that are always kept and those asked for.

    Every column comes as text, so that no id goes through a float. Tables are read in a stream: what does not fit
    is never held.

    Raises:
        BadTableError, BadRecipeError: see :func:`import_streetscapes`.
    """
    asked = dict.fromkeys([*(name for name, _ in where), *attributes])
    files = _local(tables) if tables else _hub((*NEEDED, *asked))
    home = {column: name for name, table in reversed(files.items()) for column in table.columns}
    if missing := [name for name in (*NEEDED, *asked) if name not in home]:
        raise BadTableError(
            f"no table has the column {missing[0]!r}; columns to choose by are {', '.join(sorted(home))}. "
            f"For other tables of the dataset, put their files into a folder and name it with --tables"
        )
    wanted = [name for name in dict.fromkeys((*NEEDED, *KEPT, *asked)) if name in home and name not in KEYS]
    conditions: dict[str, dict[str, pl.Expr]] = {}
    home |= dict.fromkeys(KEYS, home["lat"])  # every table has these
    for name, condition in _conditions(where).items():
        conditions.setdefault(home[name], {})[name] = condition
    names = sorted({home[name] for name in wanted}, key=lambda name: name not in conditions)
    _check_room(f"data/{name}.csv" for name in names if not tables and isinstance(files[name], CsvTable))
    found: pl.DataFrame | None = None
    for name in names:
        columns = [column for column in wanted if home[column] == name]
        if found is None:
            found = files[name].rows([*KEYS, *columns], conditions.get(name))
        else:
            more = files[name].rows(["uuid", *columns], conditions.get(name), found["uuid"])
            found = found.join(more, on="uuid", how="inner" if name in conditions else "left", maintain_order="left")
    if found is None or found.is_empty():
        raise BadTableError(_nothing(where, {name: files[home[name]] for name, _ in where}))
    if any(name == "city" for name, _ in where):
        _warn_of_namesakes(found)
    return found.sort("uuid")


def _warn_of_namesakes(found: pl.DataFrame) -> None:
    names = [name for name in ("city", "admin_name", "iso2") if name in found.columns]
    if "city_id" not in found.columns or found["city_id"].n_unique() < 2:
        return
    cities = found.group_by("city_id", *names).len().sort("len", descending=True).rows()
    listed = "; ".join(f"{', '.join(map(str, city))}: {count:,}" for _, *city, count in cities[:5])
    warnings.warn(
        f"several cities have that name ({listed}); narrow them with --country or --where admin_name=NAME",
        SeveralCitiesWarning,
        stacklevel=4,
    )


def _check_room(names: Iterable[str]) -> None:
    """Say how much is fetched before the first byte of it.

    Raises:
        SourceError: the disk has no room for it.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    size = hub_missing(REPO, list(names))
    if size < WORTH_SAYING:
        return
    folder = next(folder for folder in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SourceError(
            f"the tables of Global Streetscapes take {size / 1e9:.1f} GB, and {HF_HUB_CACHE} has {free / 1e9:.1f} GB "
            f"left; free some space, or name another disk with the environment variable HF_HOME"
        )
    note(f"the tables of Global Streetscapes are fetched once, {size / 1e9:.1f} GB, into {HF_HUB_CACHE}")


def _hub(needed: Iterable[str]) -> dict[str, Table]:
    """Tables of the hub by name, the one to take a column of before others: Parquet files where there are any.

    Where there are, no CSV table of gigabytes is read for a column that is not ``needed``.
    """
    try:
        there = {PurePosixPath(name).stem: name for name in hub_names(REPO) if name.endswith(".parquet")}
    except SourceError:
        there = {}
    found: dict[str, Table] = {}
    left = {*needed, *KEPT} - {*KEYS}
    for name in (JOINED, *TABLES):
        if name not in there or left.isdisjoint(TABLES.get(name, left)):
            continue
        table = ParquetTable(hub_open(REPO, there[name], read_ahead=0), f"{there[name]} of Global Streetscapes")
        if missing := [key for key in KEYS if key not in table.columns]:
            note(f"{there[name]} of the dataset {REPO} has no {', '.join(missing)}; its CSV tables are read instead")
        else:
            found[name] = table
            left -= {*table.columns}
    spared = {*KEPT} - {*needed} if found else set()
    for name, columns in TABLES.items():
        kept = tuple(column for column in columns if column not in spared)
        found.setdefault(name, CsvTable(kept, partial(hub_file, REPO, f"data/{name}.csv")))
    return found


def identified(found: pl.DataFrame) -> tuple[pl.DataFrame, list[Refusal]]:
    """The table under our column names and with ids of the services; rows whose id is lost are refused.

    Copies of the tables went through programs that read ids as floats, which kept only their first digits. The
    photo's page, column ``url``, still tells the id of Mapillary.
    """
    found = found.rename({theirs: ours for theirs, ours in OURS.items() if theirs in found.columns})
    pages = found["url"] if "url" in found.columns else [None] * found.height
    ids = [exact_id(id_, page) for id_, page in zip(found["orig_id"], pages, strict=True)]
    refusals = [
        Refusal(f"streetscapes/{uuid}", "no id", f"its id {written} was rounded, and no page tells the true one")
        for uuid, written, id_ in zip(found["uuid"], found["orig_id"], ids, strict=True)
        if id_ is None
    ]
    empty = pl.lit(None, pl.String)
    source = found["source"].str.to_lowercase()
    found = found.with_columns(
        source,
        pl.Series("orig_id", ids, pl.String),
        pl.lit(LICENCE).alias("licence"),
        *(pl.col(name).cast(pl.Float64, strict=False) for name in ("lat", "lon", "heading") if name in found.columns),
        *(empty.alias(name) for name in ("captured_at", "camera_type") if name not in found.columns),
    ).with_columns(pl.col("captured_at").str.replace(" ", "T", literal=True))
    thanks = [
        mapillary.attribution(row["orig_id"])
        if row["source"] == "mapillary"
        else kartaview.attribution(row.get("sequence"), row.get("sequence_index"))
        for row in found.iter_rows(named=True)
    ]
    found = found.with_columns(pl.Series("attribution", thanks, pl.String)).drop("url", strict=False)
    known = found.filter(pl.col("orig_id").is_not_null() & pl.col("source").is_in(["mapillary", "kartaview"]))
    return known.unique(["source", "orig_id"], keep="first", maintain_order=True), refusals


def exact_id(written: str | None, page: str | None = None) -> str | None:
    """The id that a table means, or None where its digits are lost.

    >>> exact_id("818314000000000.0", "https://www.mapillary.com/app/?pKey=818314428814995&focus=photo")
    '818314428814995'
    >>> exact_id("1362331837.0"), exact_id("818314000000000.0"), exact_id("8.18e+14")
    ('1362331837', None, None)
    """
    if page and (told := re.search(r"[?&]pKey=(\d+)", page)):
        return told[1]
    if written and re.fullmatch(r"\d+", written):
        return written
    whole = re.fullmatch(r"(\d+)\.0", written or "")
    # six zeros at the end are the sign of a rounding to the six digits that spreadsheets show
    return whole[1] if whole and int(whole[1]) < LARGEST_EXACT and not whole[1].endswith("000000") else None


def _local(folder: Path) -> dict[str, Table]:
    """Tables of a folder by name, with their columns; ``01_simplemaps.csv`` is ``simplemaps``."""
    if not folder.is_dir():
        raise BadTableError(f"there is no folder {folder}; give one with CSV or Parquet files of Global Streetscapes")
    found: dict[str, Table] = {}
    for file in sorted(folder.glob("*.csv")):
        columns = pl.scan_csv(file, infer_schema=False).collect_schema().names()
        if {"source", "orig_id"} <= {*columns} and {"uuid", "image_id"} & {*columns}:
            found[re.sub(r"^\d+_", "", file.stem)] = CsvTable(tuple(columns), partial(Path, file))
    for file in sorted(folder.glob("*.parquet")):
        table = ParquetTable(file, file.name)
        if {*KEYS} <= {*table.columns}:
            found[file.stem] = table
    if not found:
        raise BadTableError(
            f"{folder} holds no CSV or Parquet file with the columns {', '.join(KEYS)} of Global Streetscapes"
        )
    return dict(sorted(found.items(), key=lambda item: [JOINED, *TABLES, item[0]].index(item[0])))


def _conditions(where: Sequence[tuple[str, str]]) -> dict[str, pl.Expr]:
    """One condition a column: any of its values, upper and lower case alike, or within a range."""
    conditions: dict[str, pl.Expr] = {}
    for name, value in where:
        names = ALIKE.get(name, (name,))
        if ".." in value:
            try:
                least, most = (float(end) if end else None for end in value.split("..", 1))
            except ValueError as error:
                raise BadRecipeError(f"{name}={value} is no range of numbers; write such as {name}=6..18") from error
            number = pl.col(name).cast(pl.Float64, strict=False)
            condition = pl.lit(True)
            condition = condition & (number >= least) if least is not None else condition
            condition = condition & (number <= most) if most is not None else condition
        else:
            # a table need not have all names of a column: a pattern of names finds those that are there
            same = pl.col(f"^({'|'.join(map(re.escape, names))})$").str.to_lowercase() == value.lower()
            condition = pl.any_horizontal(same)
        conditions[name] = conditions[name] | condition if name in conditions else condition
    return conditions


def _nothing(where: Sequence[tuple[str, str]], tables: Mapping[str, Table]) -> str:
    """Which of the conditions no row fits, and what was likely meant; ``tables``: by the conditions' columns."""
    for name, value in where:
        values = tables[name].values(name)
        if ".." not in value and value.lower() not in map(str.lower, values):
            near = difflib.get_close_matches(value, values, n=5, cutoff=0.5) or values[:8]
            return f"no photo has {name}={value}; the table has {', '.join(near)} and {len(values):,} values in all"
    return "no photo fits all of what was asked for; ask for less"
