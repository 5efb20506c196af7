"""Where a video was taken: by the positions that cameras write into it, or by a GPX track beside it.

GoPro's streams are described in its "GPMF introduction" (GPS5, GPS9, GPSU, GPSF, GPSP); they and those of other cameras
(Insta360, DJI, CAMM) are read by the package telemetry-parser.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graticule.errors import BadPhotoError, note
from graticule.photos.tracks import Track
from graticule.sources.beside import read_gpx

Floats = NDArray[np.float64]
UTC_OF, FIX, PRECISION, GPS9 = "0x47505355", "0x47505346", "0x47505350", "0x47505339"  # GPSU, GPSF, GPSP, GPS9
LOCKED = 2  # of GPSF: a fix in two dimensions, 3 in three
IMPRECISE = 500  # of GPSP: a dilution of precision above 5, "under 500 is good"
GPS9_ROW = np.dtype([("at", ">i4", 7), ("quality", ">u2", 2)])
GPS9_EPOCH = datetime(2000, 1, 1, tzinfo=UTC).timestamp()


def track_of_video(
    video: Path, duration_s: float, created: datetime | None, tracks: Sequence[Path] = ()
) -> tuple[Track, float | None]:
    """The track of a video in seconds from its first frame, and when that frame was taken, seconds since 1970.

    Looked for in this order: ``tracks``, a ``.gpx`` of the video's name beside it, positions inside the video. A GPX
    is laid on the video by the clock of both; one of the video's name whose clock lies elsewhere begins with the video.

    Args:
        created: when the recording began by the video's own clock.

    Raises:
        BadPhotoError: "no position", with what was looked for.
        BadTableError: a GPX file cannot be read.
    """
    named = [file for file in (video.with_suffix(suffix) for suffix in (".gpx", ".GPX")) if file.is_file()][:1]
    if tracks or named:
        track = read_gpx(tracks or named)
        begin = _begin(track, created, duration_s, video, may_guess=not tracks)
        return track._replace(second=track.second - begin), begin
    track, began = embedded(video, duration_s)
    if not len(track.second):
        raise BadPhotoError(
            "no position",
            "the camera wrote no positions into it that can be read, and no GPX lies beside it; export its track as "
            f"{video.stem}.gpx, or give one with --gpx",
        )
    return track, began


def embedded(video: Path, duration_s: float) -> tuple[Track, float | None]:
    """As :func:`track_of_video`, of the positions inside a video; an empty track where there are none."""
    import telemetry_parser

    try:
        samples = telemetry_parser.Parser(str(video)).telemetry(False)
    except (OSError, ValueError):  # of a camera that it does not know
        samples = []
    groups = [{**sample.get("GPS9", {}), **sample.get("GPS", {})} for sample in samples]
    groups = [group for group in groups if "Data" in group or GPS9 in group]
    rows: list[tuple[float, float, float, float]] = []  # by the video's clock, lat, lon, in UTC
    for number, group in enumerate(groups):
        begin, length = number * duration_s / len(groups), duration_s / len(groups)
        try:
            rows += _fixes(group, begin, length)
        except (LookupError, TypeError, ValueError):  # a payload that is damaged
            continue
    rows = [row for row in rows if abs(row[1]) <= 90 and abs(row[2]) <= 180]
    if not rows:
        return Track(*np.empty((3, 0))), None
    second, lat, lon, utc = np.array(rows).T
    if np.isnan(second).all():  # times in UTC alone: the first is that of the first frame
        second = utc - utc[0]
    order = np.argsort(second, kind="stable")
    behind = utc - second
    known = behind[~np.isnan(behind)]
    return Track(second[order], lat[order], lon[order]), float(np.median(known)) if len(known) else None


def _fixes(group: Mapping[str, Any], begin: float, length: float) -> list[tuple[float, float, float, float]]:
    """The positions of one payload, spread evenly over the time it covers; those without a lock are left out."""
    nan = float("nan")
    data = group.get("Data")
    if data and isinstance(data[0], Mapping):
        return [
            (nan, point["lat"], point["lon"], point["unix_timestamp"]) for point in data if point.get("is_acquired")
        ]
    if data:
        if group.get(FIX, LOCKED) < LOCKED or group.get(PRECISION, 0) > IMPRECISE:
            return []
        scale = group.get("Scale", (1e7, 1e7))
        places = np.array(data, np.float64)[:, :2] / scale[:2]
        utc = np.full(len(places), group.get(UTC_OF, nan)) / 1000 + np.arange(len(places)) * length / len(places)
    else:
        table = np.frombuffer(bytes(group[GPS9])[8:], GPS9_ROW)  # behind the eight bytes of its head
        places = table["at"][:, :2] / np.array(group["Scale"][:2], np.float64)
        utc = GPS9_EPOCH + table["at"][:, 5] * 86400.0 + table["at"][:, 6] / 1000
        locked = (table["quality"][:, 1] >= LOCKED) & (table["quality"][:, 0] <= IMPRECISE)
        places[~locked] = nan
    second = begin + np.arange(len(places)) * length / len(places)
    rows = np.column_stack([second, places, utc])
    return [tuple(row) for row in rows[~np.isnan(places[:, 0])].tolist()]


def _begin(track: Track, created: datetime | None, duration_s: float, video: Path, *, may_guess: bool) -> float:
    """When a video began by a track's clock: by its own where the two overlap, else where its track begins."""
    first, last = float(track.second[0]), float(track.second[-1])
    if created is not None:
        begin = (created if created.tzinfo else created.replace(tzinfo=UTC)).timestamp()
        common = min(last, begin + duration_s) - max(first, begin)
        if common >= 0.5 * min(duration_s, last - first):
            return begin
    if may_guess:
        note(f"{video}: its clock is not that of the track beside it, which is taken to begin with its first frame")
        return first
    shown = "it does not say when it was taken"
    if created is not None:
        shown = f"it was taken {created:%Y-%m-%d %H:%M:%S} by its own clock"
    span = " to ".join(f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}" for second in (first, last))
    raise BadPhotoError("no position", f"{shown}, and the tracks are of {span} UTC; set --clock-offset")
