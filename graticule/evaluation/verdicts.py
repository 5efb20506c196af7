"""What the figures of an evaluation come to, in sentences: the same in the terminal, the report and the JSON."""

from collections.abc import Mapping
from typing import Any

from graticule.geo.sphere import format_km

FEW_PLACES = 50  # below it the share of a region is known to no better than about ten points either way
NEIGHBOURS = {  # name of a baseline, what it is
    "nearest neighbour": "the nearest training photo",
    "density of neighbours": "the density of the nearest training photos",
}


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """Sentences about the metrics of :func:`graticule.evaluation.predictions.summary`; what cannot be told is left out.

    They say whether training was worth it beside the better of the neighbours, whether regions hold what they say,
    whether the model knows more than the map of its training photos, and whether the photos are enough to tell.
    """
    return [*_training(metrics), *_regions(metrics), *_map(metrics), *_few(metrics)]


def against_neighbours(who: str, own_km: float, words: str, other_km: float, low_km: float, high_km: float) -> str:
    """What a model's median error is worth beside that of neighbours alone.

    Args:
        who, words: what to call the model, and the neighbours.
        low_km, high_km: interval of the model's median error less theirs, on the same photos.
    """
    own, other = format_km(own_km), format_km(other_km)
    if high_km < 0:
        return f"training is worth it: {words} is {other} off, {who} {own}"
    if low_km > 0:
        return f"{words} is nearer ({other}) than {who} ({own}): training makes it worse here"
    return f"{words} is as good ({other} against {own}): the encoder does the work here, training adds little"


def _training(metrics: Mapping[str, Any]) -> list[str]:
    others = {name: found for name, found in metrics.get("others", {}).items() if name in NEIGHBOURS}
    if not others:
        return []
    best = min(others, key=lambda name: others[name]["median_km"])
    other = others[best]
    if other["median_difference_km"] is None:
        return []
    ends = other["median_difference_km"]
    return [against_neighbours("this model", metrics["median_km"], NEIGHBOURS[best], other["median_km"], *ends)]


def _regions(metrics: Mapping[str, Any]) -> list[str]:
    if "coverage_90" not in metrics.get("intervals", {}):
        return []
    low, high = metrics["intervals"]["coverage_90"]
    if low <= 0.9 <= high:
        return []
    size, so = ("small", "surer") if high < 0.9 else ("large", "less sure")
    return [
        f"the 90 % regions are too {size} here: they hold {metrics['coverage_90']:.0%} of these photos "
        f"({low:.0%} to {high:.0%}), so it believes itself {so} than it is"
    ]


def _map(metrics: Mapping[str, Any]) -> list[str]:
    if (metrics.get("bits") or 0) >= 0:
        return []
    return ["it knows less of these photos than the map of its training photos alone"]


def _few(metrics: Mapping[str, Any]) -> list[str]:
    photos, places = metrics["photos"], metrics["places"]
    if places >= FEW_PLACES:
        return []
    if metrics.get("split") in ("test", "val"):
        more = "graticule crossval asks about every photo in turn"
    else:
        more = "more photos narrow them"
    return [f"{photos:,} photos of {places:,} places: the intervals are wide; {more}"]
