"""The parts of ``bench.gpu``: how fast, how exact and how much memory. Those that start processes are in gpu_runs."""

import gc
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.gpu_networks import CLASSES, NETWORKS, device, pace, recipe_of, seconds, settle, shape
from bench.gpu_runs import ranks, resume
from bench.gpu_setup import Setup
from graticule.config import Recipe
from graticule.errors import NotEnoughMemoryError
from graticule.model.geolocator import Geolocator, build_geolocator
from graticule.model.loading import Batches, PhotoDataset, ShapeBatches, worker_count
from graticule.model.preprocess import Preprocess
from graticule.photos.table import Photos, read_photos
from graticule.sources.city.make import make_city
from graticule.training.fit import fit
from graticule.training.loop import chosen_precision
from graticule.training.memory import check_memory, free_bytes, step_bytes

GOAL = 0.95  # of the bare network's photos a second
DIGITS = 1e-4  # of the logits' range, that a GPU's float32 may differ from a CPU's
LARGE = 1024, 768
SPARE = 3  # cores that the city leaves to the parts beside it
OURS_S = 12.0  # an epoch of ours is made so long


def run(name: str, setup: Setup) -> None:
    """One part, by its name."""
    part, _, network = name.partition("-")
    steps: dict[str, Callable[..., None]] = {
        "card": card,
        "digits": digits,
        "memory": memory,
        "city": city,
        "speed": speed,
        "large": large,
        "compile": compiled,
        "resume": resume,
        "ranks": ranks,
    }
    steps[part](setup, *([network] if network else []))


# ---- the machine ----------------------------------------------------------------------------------------------------


def card(setup: Setup) -> None:
    """What the device is and does at most."""
    shared = Path("/dev/shm")
    if shared.exists():
        setup.emit("card", "shared memory, where workers put photos", f"{shutil.disk_usage(shared).free / 1e9:.1f} GB")
    if not torch.cuda.is_available():
        setup.emit("card", "device", "no GPU: sizes and figures below are of a CPU")
        return
    facts = torch.cuda.get_device_properties(0)
    setup.emit("card", "device", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}")
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    setup.emit("card", "TF32 as torch starts", f"matrix products {on(matmul)}, convolutions {on(cudnn)}")
    size = 8192
    for name, kind in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        a = torch.randn(size, size, device="cuda", dtype=kind)

        def multiply(a: Tensor = a) -> int:
            torch.mm(a, a)
            return 1

        rate = pace(multiply, 0.5) * 2 * size**3 / 1e12
        setup.emit("card", f"8192 x 8192 products in {name}", f"{rate:.0f} TFLOP/s", value=rate)
    batch = torch.zeros(256, 3, 224, 224, dtype=torch.uint8).pin_memory()

    def copy() -> int:
        batch.to("cuda", non_blocking=True)
        return len(batch)

    rate = pace(copy, 0.5)
    setup.emit("card", "copying uint8 photos of 224 px", f"{rate:,.0f} photos/s", value=rate)


def on(state: bool) -> str:
    return "on" if state else "off"


# ---- arithmetic -----------------------------------------------------------------------------------------------------


def digits(setup: Setup) -> None:
    """How far logits of float32, TF32 and bfloat16 lie from float64 on the CPU, in parts of their range."""
    torch.set_num_threads(min(SPARE, torch.get_num_threads()))
    for network in NETWORKS:
        model = build_geolocator(recipe_of(network, setup), CLASSES).eval()
        height, width = shape(recipe_of(network, setup), model)
        coarse = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
        images = functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        exact = logits(model.double(), images.double())
        model.float()
        told = [("CPU, float32", logits(model, images))]
        if torch.cuda.is_available():
            model.cuda()
            told.append(("GPU, as torch starts", logits(model, images.cuda())))
            for name, tf32 in (("GPU, TF32 off", False), ("GPU, TF32 everywhere", True)):
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
                told.append((name, logits(model, images.cuda())))
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, True
        model.precision = "bfloat16"
        told.append((f"{device().upper()}, bfloat16", logits(model, images.to(device()))))
        span = exact.max() - exact.min()
        for name, found in told:
            off = float((found - exact).abs().max() / span)
            moved = float((found.softmax(1) - exact.softmax(1)).abs().max())
            same = float((found.argmax(1) == exact.argmax(1)).double().mean())
            text = f"{-np.log10(max(off, 1e-17)):.1f} digits ({off:.1e} of the range), probability moves {moved:.1e}"
            default = name == "GPU, as torch starts"
            setup.emit(
                "digits",
                f"{network}, {name}",
                f"{text}, top-1 the same of {same:.0%}",
                value=off,
                goal=f"{DIGITS:.0e}" if default else "",
                met=off < DIGITS if default else None,
            )


@torch.inference_mode()
def logits(model: Geolocator, images: Tensor) -> Tensor:
    found = model(images).logits
    if found is None:
        raise ValueError("this recipe's head has no cells")
    return found.double().cpu()


# ---- memory ---------------------------------------------------------------------------------------------------------


def memory(setup: Setup) -> None:
    """What the check says that a step takes, and what it takes; whether the batch that it advises fits."""
    for network in NETWORKS:
        for precision in ("bfloat16", "float32"):
            recipe = recipe_of(network, setup, train__precision=precision)
            what = f"{network}, {precision}, {recipe.train.batch_size} photos"
            try:
                said, taken = step_memory(recipe, recipe.train.batch_size)
            except torch.OutOfMemoryError:
                setup.emit("memory", what, f"do not fit into {free_bytes(device()) / 1e9:.1f} GB")
                continue
            text = f"{said / 1e9:.2f} GB estimated"
            if taken:
                text += f", {taken / 1e9:.2f} GB taken ({said / taken:.0%})"
            met = 0.9 < said / taken < 1.25 if taken else None
            setup.emit("memory", what, text, value=said, goal="90 to 125 %" if taken else "", met=met)
        if not torch.cuda.is_available():
            continue
        recipe = recipe_of(network, setup, train__batch_size=1_000_000)
        model = build_geolocator(recipe, CLASSES).to("cuda")
        try:
            check_memory(model, np.array([shape(recipe, model)]), recipe, "cuda")
        except NotEnoughMemoryError as error:
            advised = int(re.findall(r"train\.batch_size: (\d+) would fit", str(error))[0])
            free = free_bytes("cuda")
            del model
            what = f"{network}, a million photos are refused"
            try:
                taken = step_memory(recipe, advised)[1]
                text = f"{advised} advised, take {taken / 1e9:.1f} of {free / 1e9:.1f} GB"
                setup.emit("memory", what, text, value=advised, goal="fits", met=True)
            except torch.OutOfMemoryError:
                setup.emit("memory", what, f"{advised} advised, do not fit into {free / 1e9:.1f} GB", met=False)
        release()


def release() -> None:
    """Give back the device's memory that nothing holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def step_memory(recipe: Recipe, count: int) -> tuple[int, int]:
    """Bytes that the check expects of a step with so many photos, and that it took at most (0 on a CPU: unknown)."""
    release()
    model = build_geolocator(recipe, CLASSES).to(device()).train()
    size = shape(recipe, model)
    a_step, per_photo = step_bytes(model, recipe, size, device())
    said = 16 * sum(p.numel() for p in model.parameters()) + a_step + count * per_photo
    if not torch.cuda.is_available():
        return said, 0
    step = bare_step(recipe, model, count)
    torch.cuda.reset_peak_memory_stats()
    step()
    step()
    settle()
    return said, torch.cuda.max_memory_allocated()


# ---- photos ---------------------------------------------------------------------------------------------------------


def city(setup: Setup) -> None:
    """Draw the city on all cores, and enlarge its first frames."""
    begin = time.perf_counter()
    drives = max(4, setup.frames // 250)
    cores = os.cpu_count() or 1
    make_city(
        setup.city,
        frames=setup.frames,
        drives=drives,
        size_km=0.3 if setup.small else 2.0,
        workers=max(1, cores - SPARE),
    )
    rate = setup.frames / (time.perf_counter() - begin)
    setup.emit("city", f"{setup.frames:,} frames of 256 x 192", f"{rate:.0f} frames/s", value=rate)
    begin = time.perf_counter()
    paths = read_photos(setup.city).frame["path"].to_list()[: large_count(setup)]
    jobs = [(setup.city / path, setup.large / path) for path in paths]
    for folder in {target.parent for _, target in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        list(pool.map(enlarge, jobs, chunksize=16))
    seconds = time.perf_counter() - begin
    setup.emit("city", f"{len(jobs):,} of them enlarged to {LARGE[0]} x {LARGE[1]}", f"{seconds:.0f} s", value=seconds)


def large_count(setup: Setup) -> int:
    return min(setup.frames, 64 if setup.small else 6144)


def enlarge(job: tuple[Path, Path]) -> None:
    source, target = job
    with Image.open(source) as photo:
        photo.resize(LARGE, Image.Resampling.BICUBIC).save(target, quality=88)


def city_photos(setup: Setup) -> Photos:
    return read_photos(setup.city)


def large_photos(setup: Setup) -> Photos:
    photos = read_photos(setup.city)
    return Photos(photos.frame.head(large_count(setup)), setup.large)


# ---- speed ----------------------------------------------------------------------------------------------------------


def bare_step(
    recipe: Recipe, model: Geolocator, count: int, forward: nn.Module | None = None, **optimiser: Any
) -> Callable[[], int]:
    """A training step on one batch that lies on the device: no loop can be faster than it.

    Args:
        forward: the network as it is called, where that is not ``model`` itself.
        optimiser: more arguments for it, such as ``fused=True``.
    """
    where = next(model.parameters()).device
    wanted = recipe.train
    kind = torch.optim.AdamW if wanted.optimizer == "adamw" else torch.optim.Adam
    moving = kind(model.parameters(), lr=1e-5, weight_decay=wanted.weight_decay, **optimiser)
    half = chosen_precision(recipe)[0] == "bfloat16"
    images = torch.rand(count, 3, *shape(recipe, model), device=where)
    rows = torch.arange(count, device=where) % 2

    def step() -> int:
        with torch.autocast(where.type, torch.bfloat16, enabled=half):
            found = (forward or model)(images).logits
        moving.zero_grad()
        functional.cross_entropy(found.float(), rows).backward()
        moving.step()
        return count

    return step


def trained(recipe: Recipe, photos: Photos, bare: float, setup: Setup) -> tuple[float, float, int]:
    """Photos a second of ``fit``, seconds until its first steps were done, and steps that were watched.

    Two epochs of whole batches, each about ``OURS_S`` long at the bare network's pace.
    """
    batch = recipe.train.batch_size
    length = 1.0 if setup.small else OURS_S
    count = max(4, min(int(bare * length), len(photos)) // batch) * batch
    if count > len(photos):
        raise ValueError(f"{len(photos)} photos are fewer than the {count} of four batches; give more --frames")
    release()
    marks: list[tuple[int, float]] = []
    begin = time.perf_counter()
    # The progress is told after the loss was read, so that the device has done what it was asked.
    wanted = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 2, "stages": ()})})
    fit(
        wanted, photos.take(np.arange(count)), progress=lambda step, of, note: marks.append((step, time.perf_counter()))
    )
    warm = next(i for i, (step, _) in enumerate(marks) if step >= (2 if setup.small else 8))
    (first, since), (last, until) = marks[warm], marks[-1]
    return (last - first) * batch / (until - since), marks[0][1] - begin, last - first


def speed(setup: Setup, network: str) -> None:
    """Our loop against the bare network, and what else the bare network could do."""
    part, recipe = f"speed-{network}", recipe_of(network, setup)
    batch, whole = recipe.train.batch_size, recipe_of(network, setup, train__precision="float32")
    model = build_geolocator(recipe, CLASSES).to(device()).train()

    def bare(wanted: Recipe, **optimiser: Any) -> float:
        return pace(bare_step(wanted, model, batch, **optimiser), seconds(setup))

    before = bare(recipe)
    name = f"{recipe.encoder.name}, {chosen_precision(recipe)[0]}, batch {batch}"
    setup.emit(part, "bare", f"{before:,.0f} photos/s ({name})", value=before)
    rate, start, steps = trained(recipe, city_photos(setup), before, setup)
    after = bare(recipe)  # clocks and neighbours change: the mean of before and after
    mean = (before + after) / 2
    share = rate / mean
    text = f"{rate:,.0f} photos/s over {steps} steps, {share:.1%} of bare ({after:,.0f} after)"
    text += f"; first step at {start:.1f} s"
    setup.emit(part, "graticule", text, value=rate, goal=f"{GOAL:.0%}", met=share > GOAL)
    more = partial(emit_pace, setup, part, bare=mean)
    more("bare, fused optimiser", lambda: bare(recipe, fused=True))
    more("bare, float32", lambda: bare(whole))
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
        more("bare, TF32", lambda: bare(whole))
        torch.backends.cuda.matmul.allow_tf32 = False
    model.to(memory_format=torch.channels_last)
    more("bare, fused optimiser, channels last", lambda: bare(recipe, fused=True))


def emit_pace(setup: Setup, part: str, what: str, watch: Callable[[], float], bare: float | None = None) -> None:
    """Keep the pace that ``watch`` finds, or that the device is too small for it."""
    release()
    try:
        rate = watch()
    except torch.OutOfMemoryError:
        setup.emit(part, what, "does not fit into the device's memory")
        return
    share = f", {rate / bare:.0%} of bare" if bare else ""
    setup.emit(part, what, f"{rate:,.0f} photos/s{share}", value=rate)


def compiled(setup: Setup, network: str) -> None:
    """The same with ``torch.compile``: how long until it steps, and what it gains."""
    part = f"compile-{network}"
    recipe = recipe_of(network, setup, train__compile=True)
    bare = setup.value(f"speed-{network}", "bare")
    plain = setup.value(f"speed-{network}", "graticule")
    rate, start, steps = trained(recipe, city_photos(setup), bare or 500.0, setup)
    gain = f", {rate / plain:.2f} times as without" if plain else ""
    setup.emit(
        part, "graticule", f"{rate:,.0f} photos/s over {steps} steps{gain}; first step at {start:.0f} s", value=rate
    )
    model = build_geolocator(recipe, CLASSES).to(device()).train()
    model.compile()
    step = bare_step(recipe, model, recipe.train.batch_size)
    emit_pace(setup, part, "bare", lambda: pace(step, seconds(setup)))


# ---- photos as cameras give them ------------------------------------------------------------------------------------


class AsReportB(Dataset[tuple[Tensor, int]]):
    """One photo a call as report B's public code reads it: PIL, resize, flip, ``ToTensor``, normalise."""

    def __init__(self, paths: list[Path], height: int, width: int) -> None:
        self.paths = paths
        self.change = transforms.Compose([
            transforms.Resize((height, width)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.change(Image.open(self.paths[index]).convert("RGB")), index % 2


def report_b_pace(setup: Setup, photos: Photos, workers: int) -> float:
    """Photos a second of report B's loop: batches of 32 in float32, the loss read at each step."""
    recipe = recipe_of("geovit", setup, train__precision="float32")
    model = build_geolocator(recipe, CLASSES).to(device()).train()
    moving = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)
    dataset = AsReportB(photos.paths(), *shape(recipe, model))
    loader: Any = DataLoader(dataset, recipe.train.batch_size, shuffle=True, num_workers=workers)
    batches = endless(loader)

    def step() -> int:
        images, rows = (part.to(device()) for part in next(batches))
        moving.zero_grad()
        loss = functional.cross_entropy(model.head(model.encoder(images)).logits, rows)
        loss.backward()
        moving.step()
        loss.item()
        return len(rows)

    return pace(step, 2 * seconds(setup), warm=6)


def endless(batches: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from batches


def loader_pace(setup: Setup, photos: Photos, workers: int) -> float:
    """Photos a second that our loader alone gives."""
    recipe = recipe_of("vit", setup)
    height, width = recipe.image.shape((224, 224))
    preprocess = Preprocess("squash", height, width, max(height, width), (0.5,) * 3, (0.5,) * 3)  # type: ignore[arg-type]
    order = ShapeBatches(
        np.tile([[height, width]], (len(photos), 1)), recipe.train.batch_size // 4, seed=0, workers=workers
    )
    reading: Any = Batches(PhotoDataset(photos.paths(), preprocess), order, workers, pin=torch.cuda.is_available())
    batches = endless(reading)
    return pace(lambda: len(next(batches)["index"]), seconds(setup), warm=2 * workers)


def large(setup: Setup) -> None:
    """Photos of the size that cameras give: what decoding allows, our loop, and report B's."""
    many = max(worker_count(setup.frames, "auto"), 1)
    for kind, photos in (("256 x 192", city_photos(setup)), (f"{LARGE[0]} x {LARGE[1]}", large_photos(setup))):
        for workers in sorted({1, many, 2 * many - 1}):
            rate = loader_pace(setup, photos, workers)
            setup.emit("large", f"loader alone, {kind}, {workers} workers", f"{rate:,.0f} photos/s", value=rate)
    for network in ("vit", "geovit"):
        bare = setup.value(f"speed-{network}", "bare")
        rate, _, steps = trained(recipe_of(network, setup), large_photos(setup), bare or 500.0, setup)
        share = rate / bare if bare else None
        setup.emit(
            "large",
            f"graticule, {network}",
            f"{rate:,.0f} photos/s over {steps} steps" + (f", {share:.1%} of bare" if share else ""),
            value=rate,
            goal=f"{GOAL:.0%}",
            met=share > GOAL if share else None,
        )
    for kind, photos, workers in (
        ("256 x 192", city_photos(setup), 0),
        (f"{LARGE[0]} x {LARGE[1]}", large_photos(setup), 0),
        (f"{LARGE[0]} x {LARGE[1]}", large_photos(setup), many),
    ):
        rate = report_b_pace(setup, photos, workers)
        ours = setup.value("large" if photos.root == setup.large else "speed-geovit", "graticule, geovit")
        ours = ours or setup.value("speed-geovit", "graticule")
        times = f"; ours is {ours / rate:.1f} times as fast" if ours else ""
        what = f"report B's loop, {kind}, {workers} workers"
        setup.emit("large", what, f"{rate:,.0f} photos/s{times}", value=rate)
