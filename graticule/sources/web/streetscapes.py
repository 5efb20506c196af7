"""Global Streetscapes (Hou et al. 2024, https://doi.org/10.1016/j.isprsjprs.2024.06.023): tables, then the photos.

Ten million photos of Mapillary and KartaView in 688 cities, described by the tables ``data/*.csv`` of the dataset
``NUS-UAL/global-streetscapes`` on the Hugging Face hub. The photos themselves come from the two services.
"""

import difflib
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path

import polars as pl

from graticule.errors import BadRecipeError, BadTableError, SourceError, note
from graticule.sources.ingest import MAX_REFUSED, Refusal
from graticule.sources.web import kartaview, mapillary
from graticule.sources.web.download import Progress
from graticule.sources.web.hub import hub_file, hub_missing
from graticule.sources.web.kartaview import KartaView
from graticule.sources.web.mapillary import Mapillary
from graticule.sources.web.service import LICENCE, Service, check_output_folder, download_dataset, narrow, sample

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
NEEDED = ("lat", "lon")
KEPT = (
    "datetime_local", "sequence_id", "sequence_index", "heading", "projection_type", "city", "admin_name", "country",
    "iso2", "continent", "city_id", "url",
)  # fmt: skip
OURS = {
    "datetime_local": "captured_at", "sequence_id": "sequence", "projection_type": "camera_type",
    "country": "country_name", "iso2": "country",
}  # fmt: skip
WORTH_SAYING = 10**8  # bytes that are worth a word before they are fetched
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
        tables: a folder of the dataset's CSV files; the hub where not given.
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
    files = _local(tables) if tables else {name: (Path(), columns) for name, columns in TABLES.items()}
    home = {column: table for table, (_, columns) in reversed(files.items()) for column in columns}
    asked = dict.fromkeys([*(name for name, _ in where), *attributes])
    if missing := [name for name in (*NEEDED, *asked) if name not in home and name != "source"]:
        raise BadTableError(
            f"no table has the column {missing[0]!r}; columns to choose by are {', '.join(sorted(home))}. "
            f"For other tables of the dataset, put their CSV files into a folder and name it with --tables"
        )
    wanted = [name for name in dict.fromkeys((*NEEDED, *KEPT, *asked)) if name in home]
    if not tables:
        _check_room(f"data/{table}.csv" for table in sorted({home[name] for name in wanted}))
    found: pl.DataFrame | None = None
    choosing = {home.get(name) for name, _ in where}
    for table in sorted({home[name] for name in wanted}, key=lambda table: table not in choosing):
        rows = pl.scan_csv(_file(table, files, tables), infer_schema=False)
        names = rows.collect_schema().names()
        rows = rows.rename({"image_id": "uuid"}) if "uuid" not in names and "image_id" in names else rows
        conditions = [condition for name, condition in _conditions(where).items() if home.get(name, table) == table]
        rows = rows.filter(*conditions) if conditions else rows
        columns = [name for name in wanted if home[name] == table]
        if found is None:
            found = _streamed(rows.select("uuid", "source", "orig_id", *columns))
        else:
            those = found.lazy().select("uuid")
            more = _streamed(rows.select("uuid", *columns).join(those, on="uuid", how="semi"))
            found = found.join(more, on="uuid", how="inner" if conditions else "left", maintain_order="left")
    if found is None or found.is_empty():
        raise BadTableError(_nothing(where, home, files, tables))
    if any(name == "city" for name, _ in where):
        _warn_of_namesakes(found)
    return found.sort("uuid")


def _streamed(rows: pl.LazyFrame) -> pl.DataFrame:
    """Collect what was chosen, one row a photo; the rest of the table is read past."""
    return rows.collect(engine="streaming").unique("uuid", keep="first", maintain_order=True)


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


def _file(table: str, files: Mapping[str, tuple[Path, tuple[str, ...]]], tables: Path | None) -> Path:
    return files[table][0] if tables else hub_file(REPO, f"data/{table}.csv")


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


def _local(folder: Path) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Tables of a folder by name, with their columns; ``01_simplemaps.csv`` is ``simplemaps``."""
    if not folder.is_dir():
        raise BadTableError(f"there is no folder {folder}; give one with CSV files of Global Streetscapes")
    found = {}
    for file in sorted(folder.glob("*.csv")):
        columns = pl.scan_csv(file, infer_schema=False).collect_schema().names()
        if {"source", "orig_id"} <= {*columns} and {"uuid", "image_id"} & {*columns}:
            found[re.sub(r"^\d+_", "", file.stem)] = file, tuple(columns)
    if not found:
        raise BadTableError(f"{folder} holds no CSV file with the columns uuid, source, orig_id of Global Streetscapes")
    return dict(sorted(found.items(), key=lambda item: [*TABLES, item[0]].index(item[0])))


def _conditions(where: Sequence[tuple[str, str]]) -> dict[str, pl.Expr]:
    """One condition a column: any of its values, upper and lower case alike, or within a range."""
    conditions: dict[str, pl.Expr] = {}
    for name, value in where:
        names = {"country": ("country", "iso2", "iso3"), "city": ("city", "city_ascii")}.get(name, (name,))
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


def _nothing(
    where: Sequence[tuple[str, str]],
    home: Mapping[str, str],
    files: Mapping[str, tuple[Path, tuple[str, ...]]],
    tables: Path | None,
) -> str:
    """Which of the conditions no row fits, and what was likely meant."""
    for name, value in where:
        table = home.get(name, next(iter(files)))
        column = (
            pl.scan_csv(_file(table, files, tables), infer_schema=False)
            .select(pl.col(name).unique())
            .collect(engine="streaming")
        )
        values = sorted(column.to_series().drop_nulls())
        if ".." not in value and value.lower() not in map(str.lower, values):
            near = difflib.get_close_matches(value, values, n=5, cutoff=0.5) or values[:8]
            return f"no photo has {name}={value}; the table has {', '.join(near)} and {len(values):,} values in all"
    return "no photo fits all of what was asked for; ask for less"
