"""Frames of videos that know where they went: dashcams, action cameras, a phone with a GPS logger beside it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from graticule.errors import BadPhotoError, BadRecipeError, BadTableError
from graticule.files import write_bytes
from graticule.photos.tracks import headings, spaced
from graticule.sources.folder import find_videos
from graticule.sources.ingest import MAX_REFUSED, Progress, Refusal, ingest
from graticule.sources.telemetry import track_of_video

Floats = NDArray[np.float64]
STEP_S = 0.1  # how finely a track is looked at for the next frame
SEEK_S = 2.0  # a frame farther on is looked for from the next key frame; a nearer one by decoding


def import_videos(
    source: Path,
    out: Path,
    *,
    every_km: float = 0.01,
    tracks: Sequence[Path] = (),
    clock_offset: timedelta = timedelta(),
    quality: int = 92,
    max_refused: float = MAX_REFUSED,
    progress: Progress | None = None,
) -> Path:
    """Make a dataset of frames of videos, each at least so far from the one before; each video is a sequence.

    ``lat, lon``, ``heading`` (where the camera goes, which is where it looks if it looks ahead), ``captured_at`` and
    ``position_error_km`` come from the track; see :func:`graticule.sources.telemetry.track_of_video`.
    A video that lies beside a photo of its name, as of a live photo, is passed over.

    Args:
        source: a video, or a folder of them.
        tracks: GPX files, for videos without positions of their own.
        clock_offset: what to add to the camera's clock to get the track's.
        quality: of the JPEG, 1 to 95.

    Raises:
        BadRecipeError: ``every_km`` is not above nought.
        BadTableError: the extra ``video`` is not installed, there is no video, or a track cannot be read.
        TooManyRefusedError, WriteError: see :func:`graticule.sources.ingest.ingest`.
    """
    if not every_km > 0:
        raise BadRecipeError(f"frames need a distance above 0 m from one to the next; found {every_km * 1000:g} m")
    try:
        import av
        import telemetry_parser  # noqa: F401
    except ImportError as error:
        raise BadTableError("reading videos needs two more libraries: pip install 'graticule[video]'") from error

    videos = find_videos(source, skip=out)
    root = source if source.is_dir() else source.parent
    rows: list[dict[str, object]] = []
    refused: list[Refusal] = []
    for number, video in enumerate(videos):
        name = video.relative_to(root).as_posix()
        stem = name.replace("/", "__")
        try:
            with av.open(str(video)) as container:
                for at_s, rgb, row in _frames(container, video, every_km, tracks, clock_offset):
                    file = f"images/{stem}/{round(at_s * 1000):09}.jpg"
                    jpeg = BytesIO()
                    Image.fromarray(rgb).save(jpeg, "JPEG", quality=quality)
                    write_bytes(out / file, jpeg.getvalue())
                    rows.append({"path": file, **row, "sequence": name})
        except BadPhotoError as refusal:
            refused.append(Refusal(name, refusal.reason, str(refusal)))
        except (av.FFmpegError, EOFError) as error:
            refused.append(Refusal(name, "unreadable", f"it cannot be decoded as a video ({error})"))
        if progress:
            progress(number + 1, len(videos))
    schema = {"path": pl.String, "lat": pl.Float64, "lon": pl.Float64, "captured_at": pl.String,
              "heading": pl.Float64, "position_error_km": pl.Float64, "sequence": pl.String}  # fmt: skip
    return ingest(
        pl.DataFrame(rows, schema=schema),
        out,
        out,
        source="video",
        max_refused=max_refused,
        facts={"videos": len(videos), "every_km": every_km},
        refused_before=refused,
    )


def _frames(
    container: Any, video: Path, every_km: float, tracks: Sequence[Path], clock_offset: timedelta
) -> Iterator[tuple[float, NDArray[np.uint8], dict[str, object]]]:
    """Frames as upright RGB with the second of the video they stand at and what the track says of them."""
    if not container.streams.video:
        raise BadPhotoError("unreadable", "it holds no picture")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    duration = (container.duration or 0) / 1e6
    created = _created(container)
    track, began = track_of_video(video, duration, created and created + clock_offset, tracks)
    fine = np.arange(0, max(duration, STEP_S), STEP_S)
    lat, lon, error_km = track.at(fine)
    wanted = spaced(lat, lon, every_km)
    if not len(wanted):
        raise BadPhotoError("no position", "its track is of another time; set --clock-offset")
    courses = headings(track, fine[wanted])
    for row, course, (second, rgb) in zip(wanted, courses, _decoded(container, stream, fine[wanted]), strict=False):
        moment = None if began is None else datetime.fromtimestamp(began + second, UTC).isoformat()
        yield (
            second,
            rgb,
            {
                "lat": float(lat[row]),
                "lon": float(lon[row]),
                "captured_at": moment,
                "heading": None if np.isnan(course) else float(course),
                "position_error_km": float(error_km[row]),
            },
        )


def _decoded(container: Any, stream: Any, wanted: Floats) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """The first frame at or after each of these seconds from the first frame, in order; fewer where the video ends."""
    base = float(stream.time_base)
    start = (stream.start_time or 0) * base
    now = -np.inf
    frames: Iterator[Any] = iter(())
    for second in wanted.tolist():
        if second - now > SEEK_S:
            container.seek(int((start + second) / base), stream=stream)
            frames = container.decode(stream)
        for frame in frames:
            now = (frame.time or 0.0) - start
            if now >= second - 1e-3:
                rgb = frame.to_ndarray(format="rgb24")
                yield second, np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90)))
                break
        else:
            return


def _created(container: Any) -> datetime | None:
    """When the recording began by the camera's clock, without a zone: many call local time UTC."""
    said = container.metadata.get("creation_time") or container.streams.video[0].metadata.get("creation_time")
    try:
        return datetime.fromisoformat(said) if said else None
    except ValueError:
        return None
