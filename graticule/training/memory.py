"""Whether a training step fits into memory, asked before the first epoch."""

from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from graticule.config import Recipe
from graticule.errors import BadRecipeError, NotEnoughMemoryError
from graticule.model.geolocator import Geolocator
from graticule.training.devices import Machines
from graticule.training.loop import chosen_precision


def check_memory(
    model: Geolocator, shapes: NDArray[np.int64], recipe: Recipe, device: str, machines: Machines | None = None
) -> None:
    """Refuse a training step that would not fit, before the first epoch; ``train.check_memory: false`` leaves it out.

    Weights, gradients and AdamW's two moments take 16 bytes a weight; what the rest takes is measured. Several
    processes on the CPUs of one machine share its memory.

    Raises:
        NotEnoughMemoryError: saying how much is needed, how much is free, and a batch size that fits.
    """
    if recipe.encoder.frozen or not recipe.train.check_memory:
        return
    height, width = (int(v) for v in shapes[shapes.prod(axis=1).argmax()])
    a_step, per_photo = step_bytes(model, recipe, (height, width), device)
    machines = machines or Machines()
    fixed = (16 + 4 * (recipe.train.ema is not None)) * sum(p.numel() for p in model.parameters()) + a_step
    free = free_bytes(device) // (machines.devices if device == "cpu" else 1)
    shares = machines.world * recipe.train.accumulate
    needed = fixed + recipe.train.batch_size // shares * per_photo
    if needed > free:
        most = int((0.8 * free - fixed) // per_photo) * shares
        advice = f"train.batch_size: {most} would fit" if most >= 1 else "choose a smaller encoder or photo size"
        raise NotEnoughMemoryError(
            f"a step of {recipe.encoder.name} with train.batch_size: {recipe.train.batch_size} at {height}x{width} "
            f"needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; {advice}, or go on all the "
            f"same with train.check_memory: false"
        )


def recompute(model: Geolocator) -> None:
    """Keep of each block its input alone in training, and compute the block again for the backward pass.

    Raises:
        BadRecipeError: the encoder has no blocks that can be computed again.
    """
    switches: list[Any] = [
        m.set_grad_checkpointing for m in model.encoder.modules() if hasattr(m, "set_grad_checkpointing")
    ]
    try:
        for switch in switches:
            switch(True)
    except AssertionError:
        switches = []
    if not switches:
        raise BadRecipeError(
            "train.gradient_checkpointing: true is for timm encoders whose blocks can be computed again; this one "
            "cannot. Leave it out; train.accumulate makes a step fit, too"
        )


def free_bytes(device: str) -> int:
    """Memory that a run could take; on a GPU also what torch keeps of earlier runs of this process for the next one."""
    if device != "cuda":
        return int(psutil.virtual_memory().available)
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0]) + kept


def step_bytes(model: Geolocator, recipe: Recipe, shape: tuple[int, int], device: str) -> tuple[int, int]:
    """Bytes that a forward pass keeps whatever its batch, such as the weights in bfloat16, and those of each photo."""
    one, two = (saved_bytes(model, recipe, torch.zeros(n, 3, *shape, device=device)) for n in (1, 2))
    return one - (two - one), two - one


def saved_bytes(model: Geolocator, recipe: Recipe, images: Tensor) -> int:
    """Bytes that a forward pass over ``images`` keeps for the backward pass, in the arithmetic of the recipe.

    Each storage counts once, and the weights not at all. Batch normalisation does as in evaluation, so that the pass
    leaves the network as it was.
    """
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    half = chosen_precision(recipe)[0] == "bfloat16"
    model.eval()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        output = model(images)  # while the answer lives, so does all that was kept, and no address is used twice
    del output
    model.train()
    return sum(sizes.values()) + images.nbytes
