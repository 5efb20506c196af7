"""Photo to features: any timm or torchvision network without its classifier."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import timm
import torch
import torchvision
from torch import Tensor, nn

from graticule.errors import BadRecipeError

Pooling = Literal["own", "average", "average+gem"]
HALF = (0.5, 0.5, 0.5)
GEM_POWER = 3.0  # Radenovic, Tolias, Chum, "Fine-tuning CNN image retrieval", TPAMI 2019, section 3.2


class Encoder(nn.Module):
    """A network that turns normalised images ``(B, 3, H, W)`` into features ``(B, num_features)``.

    Attributes:
        num_features: length of a feature.
        mean, std: scaling of RGB in [0, 1] that the weights were trained with.
    """

    def __init__(
        self,
        body: nn.Module,
        num_features: int,
        pooling: Pooling,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling
        self.num_features = num_features * (2 if pooling == "average+gem" else 1)
        self.mean, self.std = mean, std

    def forward(self, images: Tensor) -> Tensor:
        if self.pooling == "own":
            features: Tensor = self.body(images)
            return features
        local = self.body.forward_features(images)  # type: ignore[operator]
        if local.ndim == 3:  # tokens of a transformer, class token and the like first
            local = local[:, getattr(self.body, "num_prefix_tokens", 0) :].transpose(1, 2)
        local = local.flatten(2)
        average = local.mean(dim=2)
        if self.pooling == "average":
            return average
        gem = local.clamp(min=1e-6).pow(GEM_POWER).mean(dim=2).pow(1 / GEM_POWER)
        return torch.cat([average, gem], dim=1)


def build_encoder(
    name: str, weights: str = "pretrained", pooling: Pooling = "own", options: Mapping[str, Any] | None = None
) -> Encoder:
    """Make an encoder by its timm or torchvision name.

    Args:
        name: a timm name, else a torchvision name; ``torchvision/NAME`` asks torchvision alone.
        weights: ``pretrained`` (fetched once by timm or torchvision), ``none``, or the path of a state dict.
        pooling: ``own`` is the network's; the others pool its last feature map or tokens.
        options: more arguments for the network, such as ``img_size``.

    Raises:
        BadRecipeError: an unknown name, weights that cannot be had or do not fit, or a pooling the network lacks.
    """
    plain = name.removeprefix("torchvision/")
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if plain == name and timm.is_model(name.partition(".")[0]):
        return _from_timm(name, weights, pooling, dict(options or {}))
    if plain in torchvision_names:
        if pooling != "own":
            raise BadRecipeError(f"pooling: {pooling} is for timm encoders; {plain} of torchvision has its own")
        return _from_torchvision(plain, weights, dict(options or {}))
    near = difflib.get_close_matches(plain, sorted({*timm.list_models(), *torchvision_names}), n=3, cutoff=0.5)
    hint = f"near ones: {', '.join(near)}" if near else "timm.list_models() lists the names"
    raise BadRecipeError(f"no encoder is called {name!r}; {hint}")


def _from_timm(name: str, weights: str, pooling: Pooling, options: dict[str, Any]) -> Encoder:
    options = {"num_classes": 0} | {k: v for k, v in options.items() if k != "num_classes"}
    try:
        body = timm.create_model(name, pretrained=weights == "pretrained", **options)
    except TypeError as error:
        raise BadRecipeError(f"encoder {name} does not take these options: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise _cannot_fetch(name, error) from error
    classifier = body.pretrained_cfg.get("classifier") or "classifier"
    if weights not in ("pretrained", "none"):
        _load(body, Path(weights), classifier if isinstance(classifier, tuple | list) else (classifier,))
    if pooling != "own" and not hasattr(body, "forward_features"):
        raise BadRecipeError(f"{name} has no feature map to pool; use pooling: own")
    with torch.no_grad():  # num_features of some networks is not what their own pooling gives
        width = _probe(body) if pooling == "own" else body.num_features
    config = body.pretrained_cfg
    return Encoder(body, width, pooling, config.get("mean", HALF), config.get("std", HALF))


def _from_torchvision(name: str, weights: str, options: dict[str, Any]) -> Encoder:
    try:
        body = torchvision.models.get_model(name, weights="DEFAULT" if weights == "pretrained" else None, **options)
    except TypeError as error:
        raise BadRecipeError(f"encoder {name} does not take these options: {error}") from error
    except (OSError, RuntimeError) as error:
        raise _cannot_fetch(name, error) from error
    linear = [key for key, module in body.named_modules() if isinstance(module, nn.Linear)][-1]
    if weights not in ("pretrained", "none"):
        _load(body, Path(weights), (linear,))
    parent, _, attribute = linear.rpartition(".")
    owner = body.get_submodule(parent)
    width = int(body.get_submodule(linear).in_features)  # type: ignore[arg-type]
    setattr(owner, attribute, nn.Identity())
    # The mean and std of ImageNet, which all of torchvision's classifiers were trained with.
    return Encoder(body, width, "own", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _load(body: nn.Module, path: Path, classifier: tuple[str, ...]) -> None:
    """Load a state dict, leaving out the classifier that we replace; everything else must fit."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BadRecipeError(f"no weights at {path}; encoder.weights is relative to the recipe's folder") from error
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for a file that is no state dict
        raise BadRecipeError(f"{path} is not a state dict that torch can read: {error}") from error
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{c}." for c in classifier))}
    own = {k for k in body.state_dict() if not k.startswith(tuple(f"{c}." for c in classifier))}
    missing, unknown = sorted(own - state.keys()), sorted(state.keys() - own)
    if missing or unknown:
        raise BadRecipeError(
            f"{path} does not fit this encoder: {len(missing)} weights are missing (such as {missing[:2]}), "
            f"{len(unknown)} are unknown (such as {unknown[:2]}); name the encoder that it was made for"
        )
    try:
        body.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BadRecipeError(f"{path} does not fit this encoder: {error}") from error


def _probe(body: nn.Module) -> int:
    was_training = body.training
    size = getattr(body, "pretrained_cfg", {}).get("input_size", (3, 224, 224))
    width = body.eval()(torch.zeros(1, *size)).shape[-1]
    body.train(was_training)
    return int(width)


def _cannot_fetch(name: str, error: Exception) -> BadRecipeError:
    return BadRecipeError(
        f"the pretrained weights of {name} could not be had ({type(error).__name__}: {str(error)[:200]}); they are "
        f"fetched over the network once. Give weights: none, or weights: the path of a state dict"
    )
