"""One HTML page for a leak audit: a map of both sides, how near they are, what they share, the worst pairs."""

from dataclasses import dataclass
from pathlib import Path

from graticule.files import write_json, write_text
from graticule.geo.sphere import format_km, map_link
from graticule.photos.leakage import NEAREST_KM, LeakAudit, Pair, audit
from graticule.photos.table import Photos
from graticule.reporting import figures
from graticule.reporting.browse import Browse, sides_of
from graticule.reporting.pages import Picture, picture, render, thumbnail

KINDS = {
    "same drive": (
        "The same drive on both sides",
        "Taken within 100 m and 10 s of each other: a drive that was cut in two, or uploaded twice under two names.",
    ),
    "alike": ("Look-alikes", "Within 100 m, and their difference hashes differ in at most 4 of 64 bits."),
    "nearest": ("Nearest pairs", "The test photos that lie nearest to a training photo, one a place."),
}


@dataclass(frozen=True, slots=True)
class Shared:
    """One line of the table of what both sides share; ``test_share`` is of the test photos."""

    name: str
    shared: str
    test_share: str


@dataclass(frozen=True, slots=True)
class Side:
    """One photo of a pair; ``where`` with a link to a map, and ``facts`` what else is known of it, in words."""

    part: str
    photo: Picture | None
    path: str
    where: str
    link: str
    facts: list[str]


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair and what lies between its two photos, in words."""

    between: str
    sides: list[Side]


@dataclass(frozen=True, slots=True)
class Context:
    """All that the template knows; ``pairs`` are (title, meaning, pairs) of each kind."""

    title: str
    synthetic: bool
    held_out: bool | None
    verdict: str
    train: str
    test: str
    map: Picture
    histogram: Picture
    near: str
    shared: list[Shared]
    pairs: list[tuple[str, str, list[ShownPair]]]
    photos_at_hand: bool
    browse: Browse | None


def write_audit(train: Photos, test: Photos, out: Path) -> LeakAudit:
    """Audit two tables; write ``audit.json`` and ``audit.html`` into the folder ``out``.

    Raises:
        ValueError: one of the two holds no photo.
        WriteError: ``out`` cannot be written.
    """
    found = audit(train, test)
    write_json(out / "audit.json", found.to_json())
    write_text(out / "audit.html", render("audit.html.j2", audit=context_of(found, train, test)))
    return found


def context_of(found: LeakAudit, train: Photos, test: Photos) -> Context:
    """What the page says of an audit of these two."""
    synthetic = train.synthetic or test.synthetic
    where = figures.split_map(train.lat, train.lon, test.lat, test.lon, synthetic=synthetic)
    bins = list(found.nearest_photos.values())
    bars = figures.leak_histogram(NEAREST_KM, bins, synthetic=synthetic)
    pairs = [
        (*KINDS[why], [_shown(pair, train, test) for pair in found.worst if pair.why == why])
        for why in KINDS
        if any(pair.why == why for pair in found.worst)
    ]
    same = train.name == test.name
    return Context(
        title=f"Is the test set of {train.name} leaking?" if same else f"Does {test.name} leak from {train.name}?",
        synthetic=synthetic,
        held_out=found.held_out,
        verdict=found.verdict,
        train=f"{len(train):,} training photos" + ("" if same else f" of {train.name}"),
        test=f"{len(test):,} test photos" + ("" if same else f" of {test.name}"),
        map=picture(where, "Map of the training photos (blue dots) and the test photos (orange triangles)"),
        histogram=picture(bars, "Test photos by the distance to the nearest training photo"),
        near=format_km(found.median_nearest_km),
        shared=_shared(found),
        pairs=pairs,
        browse=sides_of(train, test, [(_between(pair), pair) for pair in found.worst]),
        photos_at_hand=any(side.photo for _, _, shown in pairs for pair in shown for side in pair.sides),
    )


def _shared(found: LeakAudit) -> list[Shared]:
    rows = [
        (
            ("sequences", found.shared_sequences, found.shared_sequences_test_share, "no column sequence")
            if found.shared_drives is None
            else ("drives (by positions and times)", found.shared_drives, found.shared_drives_test_share, "")
        ),
        (f"places (by {found.place_from})", found.shared_places, found.shared_places_test_share, ""),
        ("days", found.shared_days, found.shared_days_test_share, "no column captured_at"),
        ("uploaders", found.shared_uploaders, found.shared_uploaders_test_share, "no column creator"),
    ]
    table = [
        Shared(name, f"unknown: {why}", "") if count is None else Shared(name, f"{count:,}", f"{share or 0:.1%}")
        for name, count, share, why in rows
    ]
    for name, photos, why in (
        ("test photos on a drive of training (100 m, 10 s)", found.same_drive, "no times in captured_at"),
        ("test photos with a near-duplicate in training", found.near_duplicates, "no column dhash"),
    ):
        known = photos is not None
        share = f"{photos / found.test_photos:.1%}" if photos is not None else ""
        table.append(Shared(name, f"{photos:,}" if known else f"unknown: {why}", share))
    return table


def _between(pair: Pair) -> str:
    between = [f"{format_km(pair.distance_km)} apart"]
    if pair.seconds is not None:
        between.append(f"{_duration(pair.seconds)} apart")
    if pair.bits is not None:
        between.append(f"{pair.bits} of 64 bits differ")
    return ", ".join(between)


def _shown(pair: Pair, train: Photos, test: Photos) -> ShownPair:
    sides = []
    for part, facts, photos in (("test", pair.test, test), ("train", pair.train, train)):
        where, link = f"{facts['lat']:.6f}, {facts['lon']:.6f}", map_link(facts["lat"], facts["lon"], 0.1)
        known = [f"{name} {facts[name]}" for name in ("sequence", "place") if name in facts]
        known += [str(facts["captured_at"])] if "captured_at" in facts else []
        known += [str(facts[name]) for name in ("attribution", "licence") if name in facts]
        shown = thumbnail(photos.root / facts["path"], f"{part} photo {facts['path']}")
        sides.append(Side(part, shown, str(facts["path"]), where, link, known))
    return ShownPair(_between(pair), sides)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
