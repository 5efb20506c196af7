"""Options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from graticule.choices import Answer, Engine, Precision, Runtime
from graticule.errors import BadRecipeError, BadTableError, BundleError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Gpx = Annotated[list[Path] | None, typer.Option(help="A GPX track of the drive. May be repeated.")]
ClockOffset = Annotated[float, typer.Option(help="Seconds to add to the camera's clock to get UTC.")]
MaxRefused = Annotated[float, typer.Option(min=0, max=1, help="Stop if more than this share of photos is refused.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: train.epochs=2. May be repeated.")]
Column = typer.Option(help="The table's own name of this column.")


Arithmetic = Annotated[
    Precision,
    typer.Option("--precision", help="float32 answers alike on every machine; bfloat16 is faster on some, less exact."),
]


Exported = Annotated[
    Runtime | None,
    typer.Option("--runtime", help="Compute features by the model that graticule export wrote; faster on processors."),
]


Point = Annotated[
    Answer | None,
    typer.Option(
        "--answer",
        help="The point: median (least distance to expect), score (most points of a map game), densest, mode (mean of "
        "the likeliest cell), center (its middle), regressed. [default: the bundle's own]",
    ),
]


ByEngine = Annotated[
    Engine | None,
    typer.Option(
        "--engine", help="In parts, so that the same command goes on where it was stopped: made here, or by Ray."
    ),
]
Cores = Annotated[int, typer.Option(min=1, help="--engine ray: cores of each process.")]
PhotosAPart = Annotated[int, typer.Option("--part", min=1, help="--engine: photos of a part.")]
TABLES = (".csv", ".tsv", ".parquet", ".pq")
Track = Literal["revisit", "unseen"]


RECIPE = "The name of a recipe (graticule recipes lists them), or a YAML file."
SPLIT_BY = (
    "What stays whole on one side: auto, the most honest that the columns allow; drive, sequence, place, day, "
    "uploader, block, world, or any column such as city; several joined by +. Or time, random, or column, as the "
    "table's own column split says."
)


def bounding_box(text: str) -> tuple[float, float, float, float]:
    """``S,W,N,E`` in degrees as four numbers; a box with W > E reaches over the 180th meridian.

    Raises:
        BadRecipeError: not four numbers, off the globe, or the south lies north of the north.
    """
    try:
        south, west, north, east = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(
            f"--bbox takes S,W,N,E in degrees, such as 38.8,-77.12,39.0,-76.9; found {text!r}"
        ) from error
    if not (-90 <= south < north <= 90 and abs(west) <= 180 and abs(east) <= 180 and west != east):
        raise BadRecipeError(
            f"--bbox {text} is no box: it is south,west,north,east with -90 <= south < north <= 90 and longitudes in "
            f"[-180, 180] degrees"
        )
    return south, west, north, east


def position(text: str, option: str) -> tuple[float, float]:
    """``LAT,LON`` in degrees, as a user types it.

    Raises:
        BadRecipeError: not two numbers, or none on the globe.
    """
    try:
        lat, lon = (float(part) for part in text.split(","))
    except ValueError as error:
        raise BadRecipeError(f"{option} takes LAT,LON in degrees, such as 38.9,-77.03; found {text!r}") from error
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise BadRecipeError(f"{option} {text} is off the globe; latitudes lie in [-90, 90], longitudes in [-180, 180]")
    return lat, lon


def check_bundle(bundle: Path) -> Path:
    """The folder of a bundle; says at once that there is none, before the seconds that torch takes to load.

    Args:
        bundle: a folder, or the name of a public model that was fetched.

    Raises:
        BundleError: there is none.
    """
    from graticule.inference.bundles import find_bundle
    from graticule.model.index import read_index

    found = find_bundle(bundle)
    if not found.exists():
        from graticule.zoo import public_models

        if str(bundle) in public_models():
            raise BundleError(f"{bundle} was not fetched yet: graticule get {bundle} makes a bundle of it")
    read_index(found)
    return found


def photos_named(photos: list[Path]) -> list[Path]:
    """The photos that a user names: one dataset or table stands for its photos, a folder for those in it."""
    [first, *more] = photos
    if not more and (first.suffix.lower() in TABLES or (first / "photos.parquet").is_file()):
        from graticule.photos.table import read_photos

        return read_photos(first).paths()
    return expand(photos)


def expand(photos: list[Path]) -> list[Path]:
    """Photos as a user names them: folders stand for the photos in them."""
    from graticule.photos.images import SUFFIXES
    from graticule.sources.folder import photo_paths

    wanted: list[Path] = []
    for photo in photos:
        if not photo.is_dir():
            wanted.append(photo)
            continue
        found = photo_paths(photo)
        if not found:
            raise BadTableError(f"the folder {photo} holds no photos ({', '.join(sorted(SUFFIXES))})")
        wanted += found
    return wanted
