"""Fixtures that several rooms share."""

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from graticule.photos.table import Photos

# Networks as tiny as these lose more to threads that wait for one another than they gain.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make test-machines`: the processor multiplies bfloat16 (1) or does not (0), whichever it does.
if (native := os.environ.get("GRATICULE_TEST_BFLOAT16")) is not None:
    import torch

    torch.cpu._is_avx512_bf16_supported = lambda: native == "1"

SHARED_DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def real_data():
    """The folder of real photos and coordinates that stays outside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data is not on this machine (../shared/data beside the checkout)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def streetscapes(real_data):
    """The 2,319 photos of Stuttgart and Singapore of Global Streetscapes' own sample, without their files."""
    tables = real_data / "global_streetscapes"
    metadata, cities, points = (
        pl.read_csv(tables / name, infer_schema=False)
        for name in ("02_metadata_common_attributes.csv", "01_simplemaps.csv", "points.csv")
    )
    frame = metadata.join(cities.select("uuid", "city"), on="uuid").join(
        points.select("uuid", creator=pl.coalesce("mly_creator_id", "kv_user")), on="uuid"
    )
    return Photos(renamed(frame, path="uuid", sequence="sequence_id", captured_at="datetime_local"), tables)


@pytest.fixture(scope="session")
def imageo(real_data):
    """6,152 test photos of Global Streetscapes with the split that IMAGEO-Bench gave them, without their files."""
    frame = pl.read_csv(real_data / "coordinates" / "imageo_dataset1.csv", infer_schema=False)
    return Photos(renamed(frame, path="img_path", sequence="sequence_id", captured_at="datetime_local"), Path())


@pytest.fixture(scope="session")
def neuchatel(real_data):
    """10,838 photos on 13 drives around Neuchâtel; the first two parts of a name are the drive's start."""
    frame = pl.read_csv(real_data / "coordinates" / "neuchatel_traject.csv").rename({"file_name": "path"})
    sequence = pl.col("path").str.split("_").list.head(2).list.join("_").alias("sequence")
    return Photos(frame.with_columns(sequence), Path())


def renamed(frame, **names):
    return frame.with_columns(pl.col("lat", "lon").cast(pl.Float64)).rename(
        {name: ours for ours, name in names.items()}
    )


def picture(width=160, height=120, seed=0):
    """A smooth picture without symmetry, so that any turn or flip of it shows."""
    rng = np.random.default_rng(seed)
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    return ((np.stack(waves, axis=-1) + 1) * 127.5).astype(np.uint8)


def exif_of(lat=None, lon=None, orientation=None, captured_at=None, offset=None, heading=None):
    """EXIF as a phone writes it."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Acme", "Phone 3"
    if orientation:
        exif[0x0112] = orientation
    shot, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    if captured_at:
        shot[0x9003] = captured_at
    if offset:
        shot[0x9011] = offset
    if lat is not None:
        gps.update({1: "S" if lat < 0 else "N", 2: sexagesimal(lat), 3: "W" if lon < 0 else "E", 4: sexagesimal(lon)})
    if heading is not None:
        gps.update({16: "T", 17: heading})
    return exif


def sexagesimal(degrees):
    minutes, seconds = divmod(round(abs(degrees) * 3600, 4), 60)
    return (*(float(part) for part in divmod(minutes, 60)), seconds)


def encoded(pixels, format_="JPEG", **options):
    """The bytes of a file; ``pixels`` is an array or a Pillow image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    if format_ == "HEIF":
        import pillow_heif

        exif = options.pop("exif", Image.Exif())
        pillow_heif.from_pillow(image).save(buffer, exif=exif.tobytes(), **options)
    else:
        image.save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.fixture
def make_jpeg():
    """``make_jpeg(path, lat, lon, seed=...)`` writes a small geotagged JPEG and returns its path."""

    def make(path, lat=None, lon=None, *, seed=0, width=160, height=120, **exif):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = encoded(picture(width, height, seed), quality=90, exif=exif_of(lat, lon, **exif))
        path.write_bytes(data)
        return path

    return make


@pytest.fixture
def full_disk(monkeypatch):
    """Every whole-file write stops halfway with "no space left on device"."""

    def half(path, data):
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", half)
