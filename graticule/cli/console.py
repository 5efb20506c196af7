"""What the commands say: numbers with their units, tables, progress bars."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import typer

AREAS = {  # of an evaluation: name, key
    "90 % region, median": "median_area_90_km2",
    "circle as sure, median": "median_circle_90_km2",
    "searched until found": "median_searched_km2",
}
LOG_S = 30.0  # between two lines of a long task where no bar can be drawn


def print_dataset(out: Path) -> None:
    from collections import Counter

    import polars as pl

    kept = pl.scan_parquet(out / "photos.parquet").select(pl.len()).collect().item()
    refused = Counter(pl.read_parquet(out / "refused.parquet")["reason"].to_list())
    reasons = ", ".join(f"{count} {reason}" for reason, count in refused.most_common())
    typer.echo(f"{counted(kept, 'photo')} in {out}" + (f"; refused {refused.total()}: {reasons}" if refused else ""))


def counted(count: int, name: str) -> str:
    """A count with its noun, such as ``1 photo`` or ``1,200 photos``."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def print_counts(photos: int, broken: int, out: Path) -> None:
    """How many photos a table holds; exit status 1 if some could not be read."""
    typer.echo(f"{counted(photos - broken, 'photo')}, written to {out}")
    if broken:
        typer.secho(f"{broken:,} of {photos:,} photos could not be read: their rows say why", fg="red", err=True)
        raise typer.Exit(1)


def print_metrics(facts: dict[str, Any]) -> None:
    """The headline with its interval, then the rest as two columns."""
    spans = facts.get("intervals", {})
    if "held_out_reason" in facts:
        typer.echo(facts["held_out_reason"])

    def span(name: str, show: Any) -> str:
        return f"  ({show(spans[name][0])} to {show(spans[name][1])})" if name in spans else ""

    rows = [("photos", f"{facts['photos']:,}" + (" (synthetic)" if facts.get("synthetic") else ""))]
    if "places" in facts and isinstance(facts["places"], int):
        rows.append(("places", f"{facts['places']:,}"))
    for name in ("median_km", "mean_km", "p90_km"):
        rows.append((f"{name.removesuffix('_km')} error", distance(facts[name]) + span(name, distance)))
    if facts.get("expected_error_km") is not None:
        note = "  (uncalibrated)" if facts.get("bits") is None else ""
        rows.append(("expected error, mean", distance(facts["expected_error_km"]) + note))
        if facts.get("calibration") and note:
            rows.append(("how sure", facts["calibration"]))
    if facts.get("bits") is not None:
        if "median_expected_error_km" in facts:
            rows.append(("expected error, median", distance(facts["median_expected_error_km"])))
        low, high = spans.get("bits", (facts["bits"], facts["bits"]))
        less = "; LESS than the map of its training photos knows" if facts["bits"] < 0 else ""
        rows.append(("bits of location", f"{facts['bits']:.2f}  ({low:.2f} to {high:.2f}){less}"))
        model, prior = -facts["log_density"], -facts["prior_log_density"]
        rows.append(("log-loss", f"{model:.2f} nats per km2, of the map alone {prior:.2f}  (less is better)"))
        for level in (50, 80, 90, 95):
            name = f"coverage_{level}"
            rows.append((f"in the {level} % region", percent(facts[name]) + span(name, percent)))
        for name, key in AREAS.items():
            if key in facts:
                rows.append((name, area(facts[key])))
        if "risk_coverage" in facts:
            nearest = f"  (of the nearest half {distance(facts['risk_coverage_at_best'][4])})"
            rows.append(("surest half, median", distance(facts["risk_coverage"][4]) + nearest))
    for name in ("top1", "top3", "top5"):
        if facts.get(name) is not None:
            rows.append((f"top-{name[3:]} cell", f"{facts[name]:.1%}" + span(name, percent)))
    if facts.get("ece") is not None:
        rows.append(("its calibration error", f"{facts['ece']:.3f}"))
    if facts.get("cross_entropy") is not None:
        rows.append(("cross-entropy", f"{facts['cross_entropy']:.3f} nats"))
    if facts.get("center_distance_km") is not None:
        rows.append(("centre to centre, mean", distance(facts["center_distance_km"]) + "  (between cell centres)"))
    if facts.get("regression_mean_km") is not None:
        rows.append(("regressed position, median", distance(facts["regression_median_km"])))
        rows.append(("regressed position, mean", distance(facts["regression_mean_km"])))
    if facts.get("outside_cells"):
        many = facts["outside_cells"] > 0.2 * facts["photos"]
        why = "  (no training photo near; centre to centre and cross-entropy are of the others alone)" if many else ""
        rows.append(("outside every cell", f"{facts['outside_cells']:,}{why}"))
    if facts.get("unreadable"):
        rows.append(("unreadable", f"{facts['unreadable']:,}"))
    for name, value in facts.items():
        if name.startswith("within_") and value > 0 and (value < 1 or name == "within_25_m"):
            label = name.removeprefix("within_").replace("_", " ")
            rows.append((f"within {label}", percent(value) + span(name, percent)))
    across = distance(facts["map_diagonal_km"])
    rows.append(("score of 5000", f"{facts['score']:.0f}  (as in GeoGuessr, on a map {across} across)"))
    if "unmarked" in facts:
        fine = facts["unmarked"]
        low, high = (distance(end) for end in fine["intervals"]["median_km"])
        rows.append(
            ("without marked", f"{fine['photos']:,} photos, median {distance(fine['median_km'])}  ({low} to {high})")
        )
    for name, other in facts.get("others", {}).items():
        low, high = (distance(end) for end in other["intervals"]["median_km"])
        mean = distance(other["mean_km"])
        rows.append((name, f"median {distance(other['median_km'])}  ({low} to {high}), mean {mean}"))
        if other.get("bits") is not None:
            held = percent(other["coverage_90"])
            size = area(other["median_area_90_km2"])
            rows.append(("", f"{other['bits']:.2f} bits, {held} in the 90 % region, of {size} in the median"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        typer.echo(f"{name:<{width}}  {value}")


def opening(bundle: Path) -> None:
    """Say that a model is opened: torch and the weights take seconds, on a busy machine a minute."""
    typer.secho(f"opening {bundle} ...", dim=True, err=True)


def print_verdicts(facts: dict[str, Any]) -> None:
    """What the figures come to, a line each, coloured on a terminal."""
    for sentence in facts["verdicts"]:
        typer.secho(f"verdict: {sentence}", bold=True)


def print_audit(audit: dict[str, Any]) -> None:
    typer.echo(f"leak audit: {audit['verdict']}")
    print_nearest(audit)


def print_nearest(audit: dict[str, Any]) -> None:
    near = "  ".join(
        f"{name.removeprefix('within_').replace('_', ' ')} {share:.0%}"
        for name, share in audit["nearest_within"].items()
    )
    typer.echo(f"nearest training photo within: {near}")


def distance(km: float) -> str:
    from graticule.geo.sphere import format_km

    return format_km(km)


def area(km2: float) -> str:
    """An area for people, such as ``0.31 km2`` or ``1,250,000 km2``."""
    return f"{km2:,.0f} km2" if km2 >= 100 else f"{km2:.2g} km2"


def percent(share: float) -> str:
    return f"{share:.1%}"


@contextmanager
def progress(name: str) -> Iterator[Any]:
    """A progress bar on stderr, so that what is printed stays clean; called with done, total and a note.

    Where stderr is no terminal, a line every :data:`LOG_S` seconds.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    if not console.is_terminal:  # a log: a line now and then, and none of what is soon done
        said = time.monotonic()

        def say(done: int, total: int, note: str = "") -> None:
            nonlocal said
            if time.monotonic() - said >= LOG_S:
                typer.echo(f"{note or name} {done:,}/{total:,}", err=True)
                said = time.monotonic()

        yield say
        return
    with Progress(TextColumn("{task.description}"), *columns, console=console) as bars:
        task = bars.add_task(name, total=None, visible=False)  # an empty bar above an error says nothing

        def show(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, description=note or name, visible=True)

        yield show


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    if sys.stdout.isatty():
        Console().print(table)
        return
    # In a file or a pipe nothing is cut or wrapped to a screen's width, and no line ends in spaces.
    text = StringIO()
    Console(width=100_000, file=text).print(table)
    typer.echo("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
