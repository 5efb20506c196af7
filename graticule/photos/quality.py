"""Photos that teach nothing: which reasons follow from what is measured, and the mark that keeps a photo from training.

Rules over measures, positions, times and the owner's own attributes give reasons, of a closed vocabulary. A mark is a
word in the column ``marked``: no row is ever deleted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graticule.choices import Engine
from graticule.errors import BadRecipeError, BadTableError
from graticule.files import write_parquet
from graticule.parts import PART, Folder
from graticule.photos import tracks
from graticule.photos.columns import UPLOADER_COLUMNS, uploader_column
from graticule.photos.measures import MeasureJob, Paths, Progress, measure_all, measure_bytes, table_of
from graticule.photos.near_duplicates import near_duplicates, one_picture_for_many_places
from graticule.photos.table import MARKED, Photos, numbers, read_photos
from graticule.photos.times import read_times

Bools = NDArray[np.bool_]
CHECKS = "checks.parquet"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a photo may teach nothing.

    Attributes:
        text: one line for people.
        marks: whether it keeps photos from training unless asked otherwise.
        measure, limit: the column of the checks and the name in :class:`Limits` that decide, where one number does.
    """

    text: str
    marks: bool = False
    measure: str | None = None
    limit: str | None = None


REASONS: Mapping[str, Reason] = {
    "unreadable": Reason("the file is missing, damaged or no photo", marks=True),
    "black": Reason("nearly every pixel is dark: nothing can be recognised", True, "bright", "black_below"),
    "flat": Reason("hardly any contrast: a lid, a wall, dense fog", True, "contrast", "flat_below"),
    "overexposed": Reason("a large part is clipped to white", True, "white", "overexposed_above"),
    "placeholder": Reason("a tile such as 'no imagery': one grey level, or one picture at many places", marks=True),
    "near-duplicate": Reason("looks like an earlier photo of the same spot, which is kept", marks=True),
    "impossible position": Reason("at 0/0, on whole degrees, or a leap too fast for its sequence", marks=True),
    "blurred": Reason(
        "no sharp edge anywhere: out of focus, drops on the lens, dazzled", False, "edge", "blurred_below"
    ),
    "night": Reason("dark on average, or night by its owner's attribute", False, "mean", "night_below"),
    "panorama": Reason("a full turn in one picture: its sides join, or its owner says so"),
    "fisheye": Reason("a fisheye lens, by its owner's attribute"),
    "burst": Reason("one of many photos of one uploader standing still"),
    "poor quality": Reason("very poor by the attribute quality of Global Streetscapes"),
    "glare": Reason("glare by the attribute of Global Streetscapes"),
    "reflection": Reason("reflections of a windscreen by the attribute of Global Streetscapes"),
    "side view": Reason("across the street, not along it, by the attribute of Global Streetscapes"),
}
MARKING = tuple(name for name, reason in REASONS.items() if reason.marks)

# Attributes that datasets bring along: column, its values in lower case, reason. The first six rows are of Global
# Streetscapes (Hou et al., ISPRS Journal 215, 2024), predicted by its authors' networks; the others of Mapillary.
ATTRIBUTES = (
    ("pano_status", ("true",), "panorama"),
    ("lighting_condition", ("night",), "night"),
    ("quality", ("very poor",), "poor quality"),
    ("glare", ("yes", "true"), "glare"),
    ("reflection", ("yes", "true"), "reflection"),
    ("view_direction", ("side",), "side view"),
    ("projection_type", ("spherical", "equirectangular"), "panorama"),
    ("projection_type", ("fisheye",), "fisheye"),
    ("camera_type", ("spherical", "equirectangular"), "panorama"),
    ("camera_type", ("fisheye",), "fisheye"),
    ("is_pano", ("true",), "panorama"),
    ("mly_is_pano", ("true",), "panorama"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where a measure becomes a reason. Chosen by eye on both sides, on 1,051 webcam stills and 595 phone photos.

    Attributes:
        black_below: the 95th percentile of grey, 0 to 255. At 52 a railway begins to show.
        flat_below: 95th less 5th percentile of grey, 0 to 255. At 32 a railway begins to show.
        overexposed_above: share of pixels at 250 and brighter. At 0.46 a facade is still recognised.
        placeholder_above: share of pixels within one of the commonest grey level, neither black nor white. A tile
            "no image available" has 0.88, the next photo 0.43.
        placeholder_bits, placeholder_km, placeholder_places: one picture at so many places farther apart than that.
        duplicate_bits: bits of 64 of the difference hash. Up to 10, all 80 pairs of one place that were looked at
            were one view; between places, chance look-alikes begin at 4.
        duplicate_km: how far apart two photos of one view may be.
        blurred_below: the steepest edges (99.5th percentile of steps between neighbours) over the tonal range
            (99th less 1st percentile), at a shorter side of 192 pixels. Sharp phone photos begin at 0.25.
        night_below: mean grey, 0 to 255; see the figures in :func:`measure`. An attribute that says day or night rules.
        seam_below: a picture twice as wide as high is a panorama where its first and last column differ by less
            than so many times what neighbouring columns differ by. Nine spherical photos have 0.4 to 1.4.
        speed_km_h: no car is faster.
        burst_photos, burst_km, burst_minutes: more photos than that, within that far and that long of the first.
    """

    black_below: float = 45.0
    flat_below: float = 25.0
    overexposed_above: float = 0.5
    placeholder_above: float = 0.6
    placeholder_bits: int = 2
    placeholder_km: float = 1.0
    placeholder_places: int = 3
    duplicate_bits: int = 4
    duplicate_km: float = 0.1
    blurred_below: float = 0.17
    night_below: float = 60.0
    seam_below: float = 2.0
    speed_km_h: float = 300.0
    burst_photos: int = 10
    burst_km: float = 0.005
    burst_minutes: float = 2.0

    def changed(self, settings: Sequence[str]) -> "Limits":
        """These limits with some changed, each given as ``name=value``.

        Raises:
            BadRecipeError: no such limit, or no such number.
        """
        kinds = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        given: dict[str, float] = {}
        for setting in settings:
            name, _, value = setting.partition("=")
            if name not in kinds:
                valid = ", ".join(f"{n}={v:g}" for n, v in asdict(self).items())
                raise BadRecipeError(f"there is no limit {name!r}; the limits are {valid}")
            try:
                given[name] = kinds[name](value)
            except ValueError as error:
                kind = "a whole number" if kinds[name] is int else "a number"
                raise BadRecipeError(f"the limit {name} is {kind}; found {value!r}") from error
        return replace(self, **given)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, slots=True)
class Checks:
    """What was found.

    Attributes:
        frame: one row a photo, in the dataset's order: ``path``, ``reasons`` (list of names in :data:`REASONS`),
            ``like`` (the photo that a near-duplicate repeats), ``error`` (of an unreadable photo), and the measures.
        limits: what was applied.
        unknown: what could not be looked for, mostly names of reasons, and what was missing.
    """

    frame: pl.DataFrame
    limits: Limits
    unknown: dict[str, str]

    def has(self, reason: str) -> Bools:
        """Which photos have this reason, shape ``(N,)``."""
        return self.frame["reasons"].list.contains(reason).to_numpy()

    def counts(self) -> dict[str, int]:
        """Photos by reason, for every reason; a photo may have several."""
        return {reason: int(self.has(reason).sum()) for reason in REASONS}

    def not_looked_for(self) -> list[str]:
        """``unknown`` in sentences; what only the attributes of some services tell is one."""
        services = {reason for _, _, reason in ATTRIBUTES} & self.unknown.keys()
        said = [f"{name} ({why})" for name, why in self.unknown.items() if name not in services]
        if services:
            names = ", ".join(name for name in REASONS if name in services)
            said.append(f"{names} (attributes of Mapillary and Global Streetscapes, which these photos are without)")
        return said

    def marks(self, reasons: Sequence[str] = MARKING) -> pl.Series:
        """The column ``marked``: the photo's reasons among these, joined by "; ", or null.

        Raises:
            BadRecipeError: no such reason.
        """
        for name in reasons:
            if name not in REASONS:
                raise BadRecipeError(f"there is no reason {name!r} to mark photos for; there are {', '.join(REASONS)}")
        among = pl.element().filter(pl.element().is_in(list(reasons)))
        joined = self.frame["reasons"].list.eval(among).list.join("; ")
        return joined.replace("", None).alias(MARKED)


def check(photos: Photos, limits: Limits | None = None, *, progress: Progress | None = None) -> Checks:
    """Look at every photo of a dataset; nothing is changed. A mark that is there already changes nothing.

    Args:
        limits: the defaults of :class:`Limits` where not given.
        progress: called with (photos done, photos in all).
    """
    limits = limits or Limits()
    return judge(photos, measure_all(photos, progress), limits)


def judge(photos: Photos, measures: pl.DataFrame, limits: Limits) -> Checks:
    """What follows from the measures of all photos, their places, times and attributes."""
    found, unknown = _from_pixels(measures, limits), dict[str, str | None]()
    found["impossible position"], unknown["leaps within a sequence"] = _impossible(photos, limits)
    teaches_none = np.logical_or.reduce([found[name] for name in MARKING if name in found])
    copies, like = _look_alikes(photos, measures, teaches_none, limits)
    found["placeholder"] |= copies
    found["near-duplicate"] = like >= 0
    found["burst"], unknown["burst"] = _bursts(photos, limits)
    unknown |= _by_attribute(photos, found)

    names = [name for name in REASONS if name in found]
    table = pl.DataFrame({name: found[name] for name in names})
    named = pl.concat_list(pl.when(name).then(pl.lit(name)) for name in names).list.drop_nulls()
    paths = photos.frame["path"]
    frame = measures.with_columns(
        paths,
        table.select(named.alias("reasons")).to_series(),
        paths.gather(pl.Series(like).replace(-1, None)).alias("like"),
    )
    first = ("path", "reasons", "like", "error")
    frame = frame.select(*first, *(name for name in frame.columns if name not in first))
    return Checks(frame, limits, {name: why for name, why in unknown.items() if why})


def seen_in(data: bytes, limits: Limits | None = None) -> tuple[str, ...]:
    """The names in :data:`REASONS` that one photo's pixels give; none if it cannot be read."""
    found = _from_pixels(table_of([measure_bytes(data)]), limits or Limits())
    return tuple(name for name, yes in found.items() if yes[0] and name != "unreadable")


def check_folder(
    dataset: Path, out: Path, limits: Limits | None = None, *, engine: Engine | None = None, cores: int = 1,
    part: int = PART, progress: Progress | None = None,
) -> tuple[Photos, Checks]:  # fmt: skip
    """:func:`check` a dataset or table, and write ``checks.parquet`` into ``out``.

    Args:
        engine, cores: who measures the photos, in parts that lie in ``out`` until the end, so that a killed check goes
            on; see :func:`graticule.parts.each`.
        part: photos of a part.
    """
    photos = read_photos(dataset)
    if engine is None:
        measures = measure_all(photos, progress)
    else:
        parts = Folder(out / "parts", MeasureJob(), Paths(photos), part)
        parts.make(engine, cores=cores, progress=progress)
        measures = pl.concat([table_of([]), *parts.read()])
    checks = judge(photos, measures, limits or Limits())
    write_parquet(out / CHECKS, checks.frame)
    if engine:
        parts.remove()
    return photos, checks


def apply(dataset: Path, checks: Checks, reasons: Sequence[str] = MARKING) -> int:
    """Write the column ``marked`` of a dataset; marks of an earlier check are replaced, no row is deleted.

    Returns:
        The number of photos with a mark.

    Raises:
        BadTableError: not a dataset, or not the one that was checked.
        BadRecipeError: no such reason.
    """
    marks = checks.marks(reasons)
    frame = _dataset(dataset).frame
    if not frame["path"].equals(checks.frame["path"]):
        raise BadTableError(f"{dataset} has changed since it was checked; check it again")
    write_parquet(dataset / "photos.parquet", frame.with_columns(marks))
    return len(marks) - marks.null_count()


def clear(dataset: Path) -> None:
    """Take the column ``marked`` off a dataset.

    Raises:
        BadTableError: not a dataset.
    """
    frame = _dataset(dataset).frame
    if MARKED in frame.columns:
        write_parquet(dataset / "photos.parquet", frame.drop(MARKED))


def _dataset(folder: Path) -> Photos:
    photos = read_photos(folder)
    if not folder.is_dir():
        raise BadTableError(f"{folder} is a table; make a dataset of it first: graticule data table {folder} OUT")
    return photos


def _from_pixels(measures: pl.DataFrame, limits: Limits) -> dict[str, Bools]:
    """The reasons that one photo's measures give; unreadable photos have no other."""
    at = {name: numbers(measures[name]) for name in ("bright", "contrast", "white", "level", "level_at")}
    edge, mean, aspect, seam = (numbers(measures[name]) for name in ("edge", "mean", "aspect", "seam"))
    found = {"unreadable": measures["error"].is_not_null().to_numpy()}  # NaN passes no comparison below
    found["black"] = at["bright"] < limits.black_below
    found["overexposed"] = at["white"] > limits.overexposed_above
    one_level = at["level"] > limits.placeholder_above
    found["placeholder"] = one_level & (at["level_at"] >= limits.black_below) & ~found["overexposed"]
    found["flat"] = (
        (at["contrast"] < limits.flat_below) & ~found["black"] & ~found["overexposed"] & ~found["placeholder"]
    )
    blank = found["black"] | found["overexposed"] | found["placeholder"] | found["flat"]
    found["blurred"] = (edge < limits.blurred_below) & ~blank
    found["night"] = (mean < limits.night_below) & ~blank
    closed = (np.abs(aspect - 2) < 0.05) & (seam < limits.seam_below) & ~blank
    found["panorama"] = closed | measures["gpano"].fill_null(False).to_numpy()
    return found


def _look_alikes(
    photos: Photos, measures: pl.DataFrame, teaches_none: Bools, limits: Limits
) -> tuple[Bools, NDArray[np.int64]]:
    """Which photos are one picture for many places, and the row of what each near-duplicate repeats, or -1.

    Photos that teach nothing anyway are left out: black frames are all alike, and what repeats one is worth keeping.
    """
    rows = np.flatnonzero(~teaches_none)
    # Without the rows of unreadable photos there are no gaps, so that hashes stay whole numbers.
    some = measures[rows]
    dhash, lat, lon = some["dhash"].to_numpy(), photos.lat[rows], photos.lon[rows]
    same = one_picture_for_many_places(
        lat,
        lon,
        dhash,
        some.select("mean", "median", "bright").to_numpy(),
        bits=limits.placeholder_bits,
        apart_km=limits.placeholder_km,
        places=limits.placeholder_places,
    )
    copies, like = np.zeros(len(photos), bool), np.full(len(photos), -1)
    copies[rows[same]] = True
    repeats = near_duplicates(
        lat[~same],
        lon[~same],
        dhash[~same],
        bits=limits.duplicate_bits,
        within_km=limits.duplicate_km,
        place=photos.groups("place")[rows[~same]] if photos.has("place") else None,
    )
    rows = rows[~same]
    like[rows[repeats >= 0]] = rows[repeats[repeats >= 0]]
    return copies, like


def _by_attribute(photos: Photos, found: dict[str, Bools]) -> dict[str, str | None]:
    """Add to ``found`` what the owner's attributes say; returns the reasons that none is there to tell."""
    for column, values, reason in ATTRIBUTES:
        if photos.has(column):
            says = photos.frame[column].cast(pl.String).str.to_lowercase()
            if column == "lighting_condition":  # its owners looked at the scene, not only at its brightness
                found[reason] &= says.is_null().to_numpy()
            yes = says.is_in(values).fill_null(False).to_numpy()
            found[reason] = found.get(reason, np.zeros(len(photos), bool)) | yes
    asked = {reason: " or ".join(c for c, _, r in ATTRIBUTES if r == reason) for _, _, reason in ATTRIBUTES}
    return {reason: f"no column {columns}" for reason, columns in asked.items() if reason not in found}


def _seconds(photos: Photos) -> NDArray[np.float64]:
    """When each photo was taken, NaN where the column does not say to the second, shape ``(N,)``."""
    return read_times(photos.frame["captured_at"])["second"].fill_null(float("nan")).to_numpy()


def _impossible(photos: Photos, limits: Limits) -> tuple[Bools, str | None]:
    """Which positions no camera had, and what was missing to tell all of them."""
    nowhere = (np.abs(photos.lat) < 0.001) & (np.abs(photos.lon) < 0.001)
    nowhere |= (photos.lat == np.rint(photos.lat)) & (photos.lon == np.rint(photos.lon))
    if _without(photos, "sequence", "captured_at"):
        return nowhere, _without(photos, "sequence", "captured_at")
    time_s = _seconds(photos)
    leap = tracks.off_track(photos.groups("sequence"), time_s, photos.lat, photos.lon, speed_km_h=limits.speed_km_h)
    return nowhere | leap, None


def _without(photos: Photos, *names: str) -> str | None:
    """Which of these columns are not there, in words; None where all are."""
    gone = [name for name in names if not photos.has(name)]
    return f"no column {' and no column '.join(gone)}" if gone else None


def _bursts(photos: Photos, limits: Limits) -> tuple[Bools, str | None]:
    """Which photos an uploader took standing still, but for the first of each run."""
    who = uploader_column(photos) or ("sequence" if photos.has("sequence") else None)
    missing = _without(photos, "captured_at")
    if who is None:
        missing = " and ".join(filter(None, (missing, f"none of {', '.join(UPLOADER_COLUMNS)}, sequence")))
    if who is None or missing:
        return np.zeros(len(photos), bool), missing
    still = tracks.standing_still(
        photos.groups(who),
        _seconds(photos),
        photos.lat,
        photos.lon,
        more_than=limits.burst_photos,
        within_km=limits.burst_km,
        within_s=limits.burst_minutes * 60,
    )
    return still, None
