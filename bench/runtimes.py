"""A bundle's features by ONNX Runtime and by OpenVINO against the network itself, in one run, on real photos.

python -m bench.runtimes BUNDLE PHOTOS [--count 48]

Without arguments a tiny bundle of the tests and noisy pictures: that shows the way, and no speed worth telling.
Each photo is asked alone and in batches of four of one shape, as ``graticule predict`` does on a processor; ways take
turns, and the best of their turns counts, since a busy machine only ever adds.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from bench.decoding import noisy_gradients
from bench.table import Row, print_table
from graticule.choices import Precision, Runtime
from graticule.model.bundle import Bundle
from graticule.model.exporting import export, open_runtime
from graticule.photos.table import read_photos

GOAL, SAME_TOP1 = 1.5, 0.99
TURNS = 3
WAYS: tuple[tuple[Runtime, Precision], ...] = (("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))
TINY = Path(__file__).parents[1] / "tests" / "bundles" / "format-2"


def runtimes_rows(source: Path = TINY, photos: Path | None = None, count: int = 48) -> list[Row]:
    """One row a runtime: times faster than eager float32, and how often the likeliest cell is the same."""
    rng = np.random.default_rng(0)
    if photos:
        paths = read_photos(photos).paths()
        data = [paths[i].read_bytes() for i in np.sort(rng.choice(len(paths), min(count, len(paths)), replace=False))]
    else:
        data = noisy_gradients(count, 640, 480)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / "bundle", ignore=shutil.ignore_patterns("training", "evaluation"))
        bundle = Bundle.read(Path(folder) / "bundle")
        images = [bundle.preprocess(photo)[None] for photo in data]
        shapes = {tuple(image.shape): [] for image in images}
        for image in images:
            shapes[tuple(image.shape)].append(image)
        batches = [torch.cat(some[i : i + 4]) for some in shapes.values() for i in range(0, len(some), 4)]
        ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager float32": bundle.model.features}
        for to, precision in WAYS:
            if find_spec("onnx") and find_spec("onnxruntime" if to == "onnx" else to):
                if not (Path(folder) / "bundle/exported" / to).exists():
                    export(Path(folder) / "bundle", to)
                ways[f"{to} {precision}"] = open_runtime(bundle, to, precision)
        return _rows(bundle, batches, ways)


@torch.inference_mode()
def _rows(
    bundle: Bundle, batches: list[torch.Tensor], ways: dict[str, Callable[[torch.Tensor], torch.Tensor]]
) -> list[Row]:
    best = {name: np.full(len(batches), np.inf) for name in ways}
    features: dict[str, torch.Tensor] = {}
    for _ in range(TURNS):
        found: dict[str, list[torch.Tensor]] = {name: [] for name in ways}
        for i, batch in enumerate(batches):
            for name, run in ways.items():
                begun = time.perf_counter()
                found[name].append(run(batch))
                best[name][i] = min(best[name][i], time.perf_counter() - begun)
        features = {name: torch.cat(parts) for name, parts in found.items()}
    own = features["eager float32"]
    cells = {name: bundle.model.head(each).logits.argmax(dim=1) for name, each in features.items()}
    eager = best["eager float32"].sum()
    height, width = batches[0].shape[2:]
    rows = [
        Row(
            f"{bundle.recipe.encoder.name}, such as {height}x{width}",
            f"{len(own)} photos, {len(own) / eager:.1f} a second",
        )
    ]
    for name in list(ways)[1:]:
        times, same = eager / best[name].sum(), float((cells[name] == cells["eager float32"]).float().mean())
        apart = float(((features[name] - own).norm(dim=1) / own.norm(dim=1)).max())
        goal = f"{GOAL} times" if "float32" in name else f"{SAME_TOP1:.0%} of top-1"
        met = times >= GOAL if "float32" in name else same >= SAME_TOP1
        rows.append(Row(f"  {name}", f"{times:.2f} times, top-1 the same {same:.1%}, apart {apart:.1e}", goal, met))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, nargs="?", default=TINY)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=48)
    asked = parser.parse_args()
    print_table(runtimes_rows(asked.bundle, asked.photos, asked.count))
