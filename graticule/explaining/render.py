"""Explanations as files: a picture and its facts for each photo and method."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal

import numpy as np
from PIL import Image

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.explaining import heatmaps
from graticule.explaining.matching import evidence
from graticule.explaining.methods import METHODS, Curves, Explanation, curves, random_curves, token_grid
from graticule.files import write_json
from graticule.geo.sphere import format_km, great_circle_km
from graticule.inference import decode
from graticule.inference.locate import Locator
from graticule.inference.pictures import Pictures
from graticule.model.loading import Progress, read_bytes, silent
from graticule.partition import NO_CELL
from graticule.photos import images
from graticule.reporting import figures

Point = tuple[float, float]
Target = Literal["true", "predicted"]
SHOWN_PX = 640  # longer side of the photo in a picture


def explain_photo(
    locator: Locator,
    photo: Path,
    out: Path,
    methods: Sequence[str],
    *,
    name: str | None = None,
    truth: Point | None = None,
    target: Target = "predicted",
    patch: int | None = None,
    stride: int | None = None,
    score: bool = True,
    pictures: Pictures | None = None,
    progress: Progress = silent,
) -> list[Path]:
    """Write a picture and its facts for each method: ``NAME-METHOD.png`` and ``NAME-METHOD.json``.

    Args:
        methods: of :data:`METHODS`, and ``map`` (the probability of every cell), ``patches`` (as a transformer
            sees the photo) and ``match`` (lines to the known photo that shares most of its geometry).
        name: beginning of the files' names; the photo's own if left out.
        truth: where the photo was taken, ``(lat, lon)``; its EXIF is asked if left out.
        target: the cell to explain: the likeliest, or the one that holds the truth.
        pictures: of the known photos, for ``match``.
        score: judge the methods' maps by :func:`curves` against random ones, in ``NAME-scores.png`` too.

    Returns:
        The files written.

    Raises:
        BadPhotoError: the photo cannot be read, or its true cell is to be explained and unknown.
        BadRecipeError: as the methods.
        WriteError: the folder cannot be written.
        KeyboardInterrupt: Ctrl-C; what was drawn until then is kept, a partial map of occlusion too.
    """
    name = name or photo.stem
    data = read_bytes(photo)
    truth = truth or _exif_position(data)
    case = _case(locator, data, photo.name, truth, target)
    row = case["row"]
    synthetic = bool(locator.bundle.facts.get("synthetic", False))
    written: list[Path] = []

    def write(method: str, figure: Any, facts: dict[str, Any]) -> None:
        written.append(figures.save(figure, out / f"{name}-{method}.png"))
        known = {key: value for key, value in case.items() if key not in ("row", "all")}
        model = locator.bundle.model
        arithmetic = {"precision": model.precision} | ({"runtime": model.runtime[0]} if model.runtime else {})
        write_json(out / f"{name}-{method}.json", {"method": method} | known | facts | arithmetic)
        written.append(out / f"{name}-{method}.json")

    shown = _shown(data)
    if "map" in methods:
        guess = (case["guess"]["lat"], case["guess"]["lon"])
        chart = figures.probability_map(
            locator.bundle.partition, case["all"], truth=truth, guess=guess, title=_map_title(case), synthetic=synthetic
        )
        write("map", chart, {})
    if "patches" in methods:
        rows, columns = token_grid(locator, data)
        title = f"The {rows} x {columns} patches that the transformer sees"
        write("patches", heatmaps.patches(shown, rows, columns, title=title), {"rows": rows, "columns": columns})
    if "match" in methods:
        found, own, theirs = evidence(locator, data, pictures, progress=progress)
        best = found.found[0]
        title = "\n".join(wrap(f"{photo.name}: {found.in_words()}", 100))
        write(
            "match",
            heatmaps.matches(own, theirs, best.here, best.there, title=title, synthetic=synthetic),
            {"evidence": found.to_json()},
        )
    judged: dict[str, Curves] = {}
    asked = [method for method in METHODS if method in methods]
    for method in asked:
        options = {"patch": patch, "stride": stride, "progress": progress} if method == "occlusion" else {}
        heat = METHODS[method](locator, data, target=row, **options)
        facts = _facts(heat)
        if score and not heat.stopped:
            if not judged:
                judged["random"] = random_curves(locator, data, target=row)
            judged[method] = curves(locator, data, heat.heat, target=row)
            facts["scores"] = {key: _areas(judged[key]) for key in (method, "random")}
        part = ""
        if heat.stopped:
            part = f"{heat.settings['squares']:,} of {heat.settings['squares_in_all']:,} squares"
        title = f"{photo.name}\nwhat the {target} cell {case['cell']} depends on (probability {heat.probability:.1%})"
        title += f"; only {part}" * heat.stopped
        chart = heatmaps.explanation(
            shown, heat.heat, signed=heat.signed, label=heat.unit, method=method, title=title, synthetic=synthetic
        )
        write(method, chart, facts)
        if heat.stopped:
            raise KeyboardInterrupt(f"{written[-2]} shows the {part} that were asked about; it is not scored")
    if judged:
        chart = heatmaps.faithfulness({key: (c.share, c.deletion, c.insertion) for key, c in judged.items()})
        written.append(figures.save(chart, out / f"{name}-scores.png"))
    return written


def doubts(written: Sequence[Path]) -> list[str]:
    """A sentence for each map whose deletion curve is no better than that of tiles in random order."""
    found = []
    for path in written:
        facts = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else {}
        scores = facts.get("scores", {})
        own, chance = (scores.get(name, {}).get("deletion_area") for name in (facts.get("method"), "random"))
        if own is not None and chance is not None and own >= chance:
            found.append(
                f"{facts['photo']}: the {facts['method']} map does no better than chance "
                f"(deletion {own:.1%} against {chance:.1%}); do not rely on it"
            )
    return found


def names_of(photos: Sequence[Path]) -> list[str]:
    """A name for each photo's files: its own without suffix, with a number where several share it."""
    seen: Counter[str] = Counter()
    names = []
    for photo in photos:
        seen[photo.stem] += 1
        names.append(photo.stem if seen[photo.stem] == 1 else f"{photo.stem}-{seen[photo.stem]}")
    return names


def _exif_position(data: bytes) -> Point | None:
    """Where the camera says that it was, unless that cannot be."""
    facts = images.inspect(data)
    if facts.lat is None or facts.lon is None or (facts.lat, facts.lon) == (0, 0):
        return None
    return (facts.lat, facts.lon) if abs(facts.lat) <= 90 and abs(facts.lon) <= 180 else None


def _case(locator: Locator, data: bytes, name: str, truth: Point | None, target: Target) -> dict[str, Any]:
    """What all explanations of a photo have in common: the answer, the truth where known, the explained cell."""
    partition = locator.bundle.partition
    predictions = next(iter(locator.predict_batches([data])))
    for error in predictions.errors.values():
        raise error
    if predictions.log_probability is None:
        raise BadRecipeError("this bundle regresses positions and has no cells; explanations are about a cell")
    probability = np.exp(predictions.log_probability[0])
    true_row = int(partition.assign([truth[0]], [truth[1]])[0]) if truth else NO_CELL
    if target == "true" and truth is None:
        raise BadPhotoError("no position", f"the true cell of {name} is not known; give --truth LAT,LON")
    if target == "true" and true_row == NO_CELL:
        raise BadPhotoError("no position", f"{name} was taken in no cell of this bundle; ask for --target predicted")
    row = true_row if target == "true" else int(probability.argmax())
    fix = decode.fixes(predictions.points, predictions.log_probability, partition, top=5)[0]
    error_km = float(great_circle_km(fix.lat, fix.lon, *truth)) if truth else None
    return {
        "photo": name,
        "target": target,
        "cell": partition.names[row],
        "cell_lat": float(partition.lat[row]),
        "cell_lon": float(partition.lon[row]),
        "probability": float(probability[row]),
        "truth": {"lat": truth[0], "lon": truth[1]} if truth else None,
        "true_cell": partition.names[true_row] if true_row != NO_CELL else None,
        "true_cell_probability": float(probability[true_row]) if true_row != NO_CELL else None,
        "guess": {"lat": fix.lat, "lon": fix.lon, "expected_error_km": fix.expected_error_km, "error_km": error_km},
        "likeliest_cells": [{"cell": cell.token, "probability": cell.probability} for cell in fix.cells],
        "row": row,
        "all": probability,
    }


def _map_title(case: Mapping[str, Any]) -> str:
    guess, likeliest = case["guess"], case["likeliest_cells"][0]["probability"]
    if guess["error_km"] is not None:
        so = f"{format_km(guess['error_km'])} off"
    else:
        so = f"expected to be {format_km(guess['expected_error_km'])} off"
    outside = "; the truth lies in no cell" if case["truth"] and case["true_cell"] is None else ""
    return f"{case['photo']}\nbest guess {so}; the network's likeliest cell {likeliest:.0%}{outside}"


def _facts(found: Explanation) -> dict[str, Any]:
    """A map's numbers, with its strongest point in shares of the photo's width and height."""
    height, width = found.heat.shape
    y, x = divmod(int(found.heat.argmax()), width)
    return {
        "unit": found.unit,
        "most": float(found.heat.max()),
        "least": float(found.heat.min()),
        "most_at": {"x": round((x + 0.5) / width, 4), "y": round((y + 0.5) / height, 4)},
        "network_sees": {"height": height, "width": width},
        "settings": found.settings,
        "seconds": round(found.seconds, 2),
    }


def _areas(found: Curves) -> dict[str, float]:
    return {"deletion_area": found.deletion_area, "insertion_area": found.insertion_area}


def _shown(data: bytes) -> images.Pixels:
    """The photo at the size of a picture, in its own aspect."""
    photo = Image.fromarray(images.decode(data, shortest_side=SHOWN_PX // 2))
    photo.thumbnail((SHOWN_PX, SHOWN_PX))
    return np.asarray(photo)
