"""A tiny town for tests: coloured photos whose colour tells the quarter, so that a tiny network learns it."""

import io

import numpy as np
import polars as pl
from PIL import Image

from graticule.config import parse_recipe
from graticule.photos.table import read_photos

QUARTERS = [(38.89, -77.04), (38.89, -77.02), (38.91, -77.04), (38.91, -77.02)]
COLORS = [(220, 40, 40), (40, 200, 60), (50, 70, 230), (230, 220, 60)]


def photo(quarter, rng, height=48, width=64):
    rgb = np.clip(np.array(COLORS[quarter]) + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_town(folder, count=96, seed=0, quarters=QUARTERS):
    """A table of ``count`` photos in four quarters and six drives; two shapes of photo."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        quarter = i % 4
        lat, lon = quarters[quarter] + rng.normal(0, 0.001, 2)
        lon = (lon + 180) % 360 - 180
        size = (48, 64) if i % 3 else (64, 48)
        (folder / f"{i:03}.jpg").write_bytes(photo(quarter, rng, *size))
        rows.append({"path": f"{i:03}.jpg", "lat": lat, "lon": lon, "sequence": f"drive-{i % 6}", "country": "US"})
    pl.DataFrame(rows).write_csv(folder / "table.csv")
    return read_photos(folder / "table.csv")


def tiny_recipe(**changes):
    """A recipe that trains in a second; sections are merged with ``changes``."""
    tree = {
        "name": "tiny",
        "cells": {"split_above": 30, "drop_below": 5},
        "split": {"by": "sequence", "val": 0.17, "test": 0.17},
        "image": {"height": 32, "width": 32},
        "encoder": {"name": "test_efficientnet", "weights": "none"},
        "train": {"epochs": 4, "batch_size": 16, "lr": 0.01, "precision": "float32", "workers": 0},
    }
    for name, value in changes.items():
        tree[name] = tree.get(name, {}) | value if isinstance(value, dict) else value
    return parse_recipe(tree)
