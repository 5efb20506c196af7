"""How fast a JPEG becomes a 224-pixel tensor: ours against Pillow with torchvision's PIL transforms.

python -m bench.decoding
"""

import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional as F  # noqa: N812

from bench.table import Row, print_table
from graticule.photos import images

GOAL = 1.8
SIDE = 224
PHOTOS = Path(__file__).parents[1] / ".." / "shared" / "data" / "san_francisco" / "images"

by_pillow = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])


def theirs(data: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(data)) as photo:
        return by_pillow(photo.convert("RGB"))


def ours(data: bytes) -> torch.Tensor:
    pixels = torch.from_numpy(images.decode(data, shortest_side=SIDE)).permute(2, 0, 1)
    return F.resize(pixels, [SIDE, SIDE], antialias=True)


def noisy_gradients(count: int, width: int, height: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 160, width) + np.linspace(0, 60, height)[:, None]
    files = []
    for _ in range(count):
        pixels = ramp[..., None] * rng.uniform(0.3, 1, 3) + rng.normal(0, 12, (height, width, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def seconds(work: Callable[[bytes], torch.Tensor], data: bytes) -> float:
    begun = time.process_time()  # of this one thread; the clock would count the neighbours too
    work(data)
    return time.process_time() - begun


def decoding_rows(repeats: int = 9) -> list[Row]:
    """Images per second of one core, and the ratio."""
    collections = {
        "640x480 noise": noisy_gradients(24, 640, 480),
        "2048x1536 noise": noisy_gradients(4, 2048, 1536),
        "San Francisco": [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))[:48]],
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for name, files in collections.items():
            if not files:
                rows.append(Row(f"decode + resize, {name}", "skipped: ../shared/data is absent"))
                continue
            # photo by photo in turns, so that a busy moment of the machine slows both
            times = [(seconds(theirs, data), seconds(ours, data)) for _ in range(repeats) for data in files]
            slow, fast = (median(column) for column in zip(*times, strict=True))
            ratio = slow / fast
            rows.append(Row(f"decode + resize, {name}", f"{1 / slow:.0f} -> {1 / fast:.0f} img/s"))
            rows.append(Row(f"  ratio, {name}", f"{ratio:.2f} times", f"at least {GOAL}", ratio >= GOAL))
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    print_table(decoding_rows())
