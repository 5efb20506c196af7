"""Examples of answers, for the manual that ``/openapi.json`` is; tests compare their names with real answers."""

from typing import Any

FIX: dict[str, Any] = {
    "path": "street.jpg",
    "lat": 37.7983074,
    "lon": -122.4016091,
    "expected_error_km": 0.1557,
    "calibrated": True,
    "median_error_km": 0.114,
    "p90_error_km": 0.3229,
    "area_km2": 0.3491,
    "unlike_training": 0.0,
    "region": ["8085805e3", "8085805f1"],
    "cannot_tell": None,
    "claim": None,
    "near": "Chinatown, California, United States",
    "places": [{"name": "Chinatown, California, United States", "probability": 0.9986}],
    "inside": [],
    "cells": [{"token": "808580f57", "lat": 37.7983625, "lon": -122.4017681, "probability": 0.634582}],
    "words": "near Chinatown, California, United States (37.79831, -122.40161)\n"
    "half of such photos lie within 114 m, nine of ten within 323 m",
    "exif": {"lat": 37.7979, "lon": -122.4021, "distance_km": 0.0624},
}


def _example(description: str, value: Any) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": value}}}


MODEL = _example(
    "What is served. ``coarsest_answer_km`` is null where answers are told as they are; with ``--play`` there are "
    "``test_photos``.",
    {
        "models": [
            {
                "id": "san-francisco",
                "name": "real-photos",
                "partition": "s2",
                "cells": 214,
                "calibrated": True,
                "encoder": "tf_efficientnet_lite2",
                "answer": "median",
                "card": "# Model card ...",
                "bounds": [[37.70, -122.51], [37.81, -122.36]],
                "center": [37.755, -122.435],
                "photos_known": 480,
                "photos_trained": 480,
                "area": "San Francisco, California, United States",
                "synthetic": False,
            }
        ],
        "coarsest_answer_km": None,
        "limits": {"bytes": 33554432, "pixels": 50000000, "photos": 32},
        "test_photos": 0,
        "street_map": None,
    },
)
LOCATE = _example(
    "One entry a photo, in their order: what ``graticule locate`` says of it, or ``path`` and ``error``. Photos "
    "``together`` have one entry, and after it those that cannot be read. Distances are kilometres, ``lat`` and "
    "``lon`` degrees.",
    {"fixes": [FIX, {"path": "broken.jpg", "error": "the JPEG file ends before its picture does; copy it again"}]},
)
PROBABILITY = _example(
    "How a claimed place fits. ``probability`` is that of the circle of ``within_km``, ``region`` the smallest region "
    "that holds the place, ``surprise`` the probability of all places that are likelier.",
    {
        "lat": 37.79,
        "lon": -122.4,
        "distance_km": 0.9345,
        "within_km": 0.114,
        "probability": 0.001179,
        "region": None,
        "density_per_km2": 0.0298,
        "surprise": 0.968369,
        "words": "934 m from the answer; 0.1% within 114 m; outside the 95% region",
    },
)
EXPLAIN = _example(
    "``heatmap_png`` is a transparent picture, base64, to be stretched over the photo: vermilion speaks for the "
    "likeliest cell, blue against it. Events are ``progress`` with ``done`` and ``total``, of occlusion ``sketch`` "
    "with a coarse ``heatmap_png``, then ``answer`` with this.",
    {
        "method": "occlusion",
        "heatmap_png": "iVBORw0KGgo...",
        "scores": {
            "cell": "808580f57",
            "probability": 0.634582,
            "unit": "drop in probability",
            "signed": True,
            "most": 0.2143,
            "least": -0.0312,
        },
        "fix": FIX,
    },
)
PLAY = _example(
    "A game that was dealt; rounds count from 0.",
    {"id": "vYc0...", "seed": 7, "rounds": 5, "scale_km": 12.4},
)
GUESS = _example(
    "The truth, which is told after the guess alone; points as GeoGuessr's, up to 5000.",
    {
        "truth": {"lat": 37.7968, "lon": -122.4021},
        "model": {"lat": 37.7983074, "lon": -122.4016091},
        "points_you": 4210,
        "points_model": 4875,
        "error_km_you": 0.2131,
        "error_km_model": 0.0314,
    },
)
TEST = _example(
    "The truth of a photo of the test set, and the answer.",
    {
        "truth": {"lat": 37.7968, "lon": -122.4021},
        "error_km": 0.1735,
        "fix": {name: value for name, value in FIX.items() if name not in ("path", "words", "exif")},
    },
)
