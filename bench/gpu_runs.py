"""The parts of ``bench.gpu`` that start processes: a run that is killed and resumed, and ranks that share a card."""

import os
import random
import socket
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from bench.gpu_networks import CLASSES, device, pace, recipe_of, seconds, shape
from bench.gpu_setup import Setup
from graticule.config import Recipe
from graticule.model.geolocator import build_geolocator
from graticule.model.index import INDEX
from graticule.photos.table import read_photos
from graticule.training.prepare import CHECKPOINTS, LAST
from graticule.training.train import train

# The parts' own process must not have started CUDA, or its forks could not.
FORK = get_context("fork")


def start(target: Callable[..., None], *args: Any) -> ForkProcess:
    process = FORK.Process(target=target, args=args)
    process.start()
    return process


def stop(process: ForkProcess) -> None:
    """Kill -9. The workers of its loader see within seconds that it is gone, and end."""
    process.kill()
    process.join()


def distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference of two arrays. By NumPy: torch would start threads, after which no fork can use them."""
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0))


# ---- kill and resume ------------------------------------------------------------------------------------------------


def train_run(recipe: Recipe, setup: Setup, out: Path, resume: bool, exact: bool) -> None:
    """A whole ``train`` from photos to a bundle."""
    if exact:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True, warn_only=True)
    photos = read_photos(setup.city)
    train(recipe, photos.take(range(min(len(photos), 6400))), out, resume=resume)


def resume(setup: Setup) -> None:
    """A run that is killed and resumed against two that are not: the weights, byte for byte."""
    networks = {"vit": {} if setup.small else {"encoder__name": "vit_small_patch16_224"}, "geovit": {}}
    for network, sets in networks.items():
        batch = 8 if setup.small else 64
        recipe = recipe_of(
            network,
            setup,
            train__epochs=2,
            train__batch_size=batch,
            train__checkpoint_minutes=0.002 if setup.small else 0.02,
            **sets,
        )
        for exact in (False, True):
            if one_resume(setup, network, recipe, exact):
                break  # else once more, with kernels that add in a fixed order


def one_resume(setup: Setup, network: str, recipe: Recipe, exact: bool) -> bool:
    """Three runs side by side, one of them killed; whether its weights are those of the others."""
    outs = [setup.folder / f"{network}-{exact}-{name}" for name in ("first", "second", "killed")]
    begin = time.monotonic()
    first, second, killed = (start(train_run, recipe, setup, out, False, exact) for out in outs)
    checkpoint = outs[2] / "training" / CHECKPOINTS / LAST
    while not checkpoint.exists() and killed.is_alive():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3 if setup.small else 2.5))
    early = not (outs[2] / INDEX).exists()
    after = time.monotonic() - begin
    stop(killed)
    first.join()
    second.join()
    took = time.monotonic() - begin
    again = start(train_run, recipe, setup, outs[2], True, exact)
    again.join()
    if any(run.exitcode for run in (first, second, again)):
        raise RuntimeError(f"a run of {network} failed; its error is above")
    weights = [load_file(out / "weights.safetensors") for out in outs]
    apart, moved = (max(distance(weights[0][k], other[k]) for k in weights[0]) for other in weights[1:])
    kernels = "deterministic kernels" if exact else "torch's own kernels"
    text = f"killed after {after:.1f} of {took:.1f} s" if early else "it was killed too late"
    text += ": the same bytes" if not moved else f": weights differ by up to {moved:.1e}"
    text += ", as two whole runs do" if not apart else f", two whole runs by {apart:.1e}"
    setup.emit("resume", f"{network}, {kernels}", text, value=moved, goal="the same bytes", met=early and not moved)
    return not moved and not apart


# ---- ranks on one card ----------------------------------------------------------------------------------------------


def ranks(setup: Setup) -> None:
    """Two processes of DDP on one device, in three ways, against one process with the same global batch."""
    alone = setup.folder / "alone.pt"
    start(rank_run, setup, 0, 1, "", 0, {}, alone).join()
    if not alone.exists():
        raise RuntimeError("one process alone did not get through; its error is above")
    one = torch.load(alone)
    setup.emit("ranks", "one process", f"{one['pace']:,.0f} photos/s", value=one["pace"])
    apart = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_SOCKET_IFNAME": "lo"}
    ways: dict[str, tuple[str, Callable[[int], dict[str, str]]]] = {
        "two over gloo": ("gloo", lambda rank: {"GLOO_SOCKET_IFNAME": "lo"}),
        "two over NCCL": ("nccl", lambda rank: {"NCCL_SOCKET_IFNAME": "lo"}),
        # NCCL refuses two ranks of one host on one card; ranks of two hosts do not ask.
        "two over NCCL, as of two hosts": ("nccl", lambda rank: {"NCCL_HOSTID": f"host{rank}"} | apart),
    }
    for name, (backend, environment) in ways.items():
        if backend == "nccl" and not torch.cuda.is_available():
            continue
        files = [setup.folder / f"{name}-{rank}.pt" for rank in (0, 1)]
        port = free_port()
        both = [start(rank_run, setup, rank, 2, backend, port, environment(rank), files[rank]) for rank in (0, 1)]
        end = time.monotonic() + 35
        for process in both:
            process.join(max(end - time.monotonic(), 0))
        hung = any(process.is_alive() for process in both)
        for process in both:
            stop(process)
        told = [torch.load(file) for file in files if file.exists()]
        reason = next((t["error"] for t in told if "error" in t), "no answer within 35 s" if hung else "it died")
        if len(told) < 2 or any("error" in t for t in told):
            setup.emit("ranks", name, f"does not run: {reason}")
            continue
        off, between = (
            max(distance(value.numpy(), other["weights"][k].numpy()) for k, value in given["weights"].items())
            for given, other in ((one, told[0]), (told[0], told[1]))
        )
        rate = sum(t["pace"] for t in told)
        text = f"{rate:,.0f} photos/s together ({rate / one['pace']:.0%}); ranks {'DIFFER' if between else 'agree'}"
        text += f"; weights {off:.1e} from one process's"
        setup.emit("ranks", name, text, value=rate, goal="1e-5", met=not between and off < 1e-5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_run(
    setup: Setup, rank: int, world: int, backend: str, port: int, environment: dict[str, str], out: Path
) -> None:
    """One rank: five steps from the same weights over its share of the same batches, then its pace."""
    try:
        os.environ.update(environment)
        if world > 1:
            torch.distributed.init_process_group(
                backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
            )
        torch.save(rank_steps(setup, rank, world), out)
    except Exception as error:  # noqa: BLE001 that it does not run is what was asked
        lines = [line for line in str(error).splitlines() if line.strip()]
        torch.save({"error": f"{type(error).__name__}: {' '.join(lines[:1] + lines[-1:])[:300]}"}, out)
        os._exit(1)
    os._exit(0)  # a group that was not left in order may wait for the other rank


def rank_steps(setup: Setup, rank: int, world: int) -> dict[str, Any]:
    recipe = recipe_of("vit", setup, train__precision="float32")
    model: Any = build_geolocator(recipe, CLASSES).to(device()).train()
    size, count = shape(recipe, model), 8 if setup.small else 64
    network = DistributedDataParallel(model) if world > 1 else model
    moving = torch.optim.SGD(network.parameters(), lr=0.01)
    chance = torch.Generator().manual_seed(0)

    def step(images: torch.Tensor, rows: torch.Tensor) -> int:
        moving.zero_grad()
        functional.cross_entropy(network(images).logits, rows).backward()
        moving.step()
        return len(rows)

    images = torch.rand(count, 3, *size, generator=chance)
    rows = torch.randint(CLASSES, (count,), generator=chance)
    own = images[rank::world].to(device()), rows[rank::world].to(device())
    for _ in range(5):
        step(*own)
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return {"weights": weights, "pace": pace(lambda: step(*own), seconds(setup), warm=2)}
