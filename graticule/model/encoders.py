"""Photo to features: any timm or torchvision network without its classifier."""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import timm
import torch
import torchvision
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from torch import Tensor, nn
from torch.func import functional_call

from graticule.choices import Interpolation, Pooling, Root
from graticule.errors import BadRecipeError, NotFetchedError
from graticule.model.packaged import packaged_state
from graticule.model.salad import Salad

HALF = (0.5, 0.5, 0.5)
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # what timm looks for in a folder of a hub, best first
ROOT_STEPS = 5  # of Newton and Schulz: Li et al., "Towards faster training", CVPR 2018, section 4.2
GEM_POWER = 3.0  # Radenovic, Tolias, Chum, "Fine-tuning CNN image retrieval", TPAMI 2019, section 3.2


class Encoder(nn.Module):
    """A network that turns normalised images ``(B, 3, H, W)`` into features ``(B, num_features)``.

    Args:
        inner: modules of the network, such as ``blocks.4``, whose outputs' mean and spread over the image are put
            beside the pooled output: texture and layout that a classifier's last layer has forgotten.
        second_order: modules whose outputs' second moments stand after all that: which local features go together in
            a photo. Heads do not read them; photos are compared by them.
        second_order_root: see :func:`second_moments`.
        second_order_halves: also those of the upper and of the lower half of the photo.

    Attributes:
        num_features: length of a feature.
        num_pooled: length of its first part, without second moments: what heads read.
        views: lengths of the last parts of a feature, by each of which photos are compared: second moments, or all.
        mean, std: scaling of RGB in [0, 1] that the weights were trained with.
        input_size: height and width of the photos that it is made for, pixels.
        interpolation: how the photos that the weights were trained with were resized.
    """

    def __init__(
        self,
        body: nn.Module,
        pooling: Pooling,
        inner: Sequence[str],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        input_size: tuple[int, int, int],
        interpolation: Interpolation = "bilinear",
        second_order: Sequence[str] = (),
        second_order_root: Root = "matrix",
        second_order_halves: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.interpolation = input_size[1:], interpolation
        self.body: nn.Module = body
        self.pooling, self.inner, self.second_order = pooling, tuple(inner), tuple(second_order)
        self.second_order_root: Root = second_order_root
        self.second_order_halves = second_order_halves
        self.mean, self.std = mean, std
        self._seen: dict[tuple[int, str], Tensor] = {}  # by thread: a service asks one network in several
        if pooling == "salad" and getattr(body, "num_prefix_tokens", 0) != 1:
            raise BadRecipeError("pooling: salad takes the patches and the class token of a transformer; name one")
        self.salad = Salad(int(body.num_features)) if pooling == "salad" else None  # type: ignore[arg-type]
        modules = dict(body.named_modules())
        for setting, names in (("inner", self.inner), ("second_order", self.second_order)):
            for name in names:
                if name not in modules:
                    near = difflib.get_close_matches(name, modules, n=3) or [n for n in modules if n and "." not in n]
                    raise BadRecipeError(
                        f"the encoder has no module {name!r} for encoder.{setting}; it has {', '.join(near)}"
                    )
        for name in dict.fromkeys([*self.inner, *self.second_order]):
            modules[name].register_forward_hook(partial(self._keep, name))
        self.num_pooled, moments = self._probe(input_size)
        self.num_features = self.num_pooled + sum(moments)
        self.views = moments or (self.num_features,)

    def forward(self, images: Tensor) -> Tensor:
        parts = [*self._read(images), *self._moments()]
        self._forget()  # else the graph of a training step would live until the next
        return torch.cat(parts, dim=1)

    def _read(self, images: Tensor) -> list[Tensor]:
        parts = self._pooled(images)
        for name in self.inner:
            local = self._places(self._seen[get_ident(), name])
            parts += [local.mean(dim=2), local.std(dim=2, correction=0)]
        return parts

    def _moments(self) -> list[Tensor]:
        found = []
        for name in self.second_order:
            local = self._places(self._seen[get_ident(), name])
            views = [local]
            if self.second_order_halves:  # places stand row by row, so the first half of them is the upper one
                count = local.shape[2]
                views += [local[:, :, : (count + 1) // 2], local[:, :, count // 2 :]]
            found += [second_moments(view, self.second_order_root) for view in views]
        return found

    def _pooled(self, images: Tensor) -> list[Tensor]:
        if self.pooling == "own":
            return [self.body(images)]
        local = self.body.forward_features(images)  # type: ignore[operator]
        if self.salad is not None:
            return [self.salad(self._places(local), local[:, 0])]
        local = self._places(local)
        if self.pooling == "average":
            return [local.mean(dim=2)]
        gem = local.clamp(min=1e-6).pow(GEM_POWER).mean(dim=2).pow(1 / GEM_POWER)
        return [local.mean(dim=2), gem]

    def _places(self, local: Tensor) -> Tensor:
        """A feature map or tokens as ``(B, channels, places)``, without a transformer's class token and the like."""
        if local.ndim == 3:
            return local[:, getattr(self.body, "num_prefix_tokens", 0) :].transpose(1, 2)
        return local.flatten(2)

    def _keep(self, name: str, _: nn.Module, __: object, output: Tensor) -> None:
        self._seen[get_ident(), name] = output

    def _forget(self) -> None:
        for name in {*self.inner, *self.second_order}:
            self._seen.pop((get_ident(), name), None)

    @torch.no_grad()
    def _probe(self, input_size: tuple[int, int, int]) -> tuple[int, tuple[int, ...]]:
        """Ask the network how wide its answers are: what the libraries say of themselves is not always so.

        Shapes alone are computed, on torch's device ``meta``: a photo through a large transformer takes seconds.
        """
        was_training = self.training
        asked = _Widths(self.eval())
        tensors = {name: each.to("meta") for name, each in (*asked.named_parameters(), *asked.named_buffers())}
        photo = torch.zeros(1, *input_size)
        try:
            pooled, moments = functional_call(asked, tensors, photo.to("meta"))
        except (RuntimeError, TypeError, ValueError):  # a network that looks at its numbers on the way
            pooled, moments = asked(photo)
        self._forget()
        self.train(was_training)
        return sum(pooled), tuple(moments)


class _Widths(nn.Module):
    """How many numbers each part of an encoder's answer has."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[list[int], list[int]]:
        parts = (self.encoder._read(images), self.encoder._moments())
        pooled, moments = ([int(part.shape[1]) for part in some] for some in parts)
        return pooled, moments


def second_moments(local: Tensor, root: Root = "matrix") -> Tensor:
    """Second moments of local features ``(B, C, P)``, shape ``(B, C (C + 1) / 2)``, of unit length.

    Each local feature counts by its direction alone; of every two channels the mean of their product (Lin,
    RoyChowdhury, Maji, "Bilinear CNN models", ICCV 2015, section 3; Carreira et al., "Semantic segmentation with
    second-order pooling", ECCV 2012). A root keeps a large even wall from drowning the rest.

    Args:
        root: ``matrix``, the square root of the matrix (Li et al., "Is second-order information helpful", ICCV 2017);
            or ``elements``, of each mean with its sign.
    """
    kind = local.device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        unit = nn.functional.normalize(local.float(), dim=1)
        moments = unit @ unit.transpose(1, 2) / unit.shape[2]
        rooted = _matrix_root(moments) if root == "matrix" else moments.sign() * moments.abs().sqrt()
    channels = int(local.shape[1])
    upper = torch.from_numpy(np.flatnonzero(np.triu(np.ones((channels, channels))))).to(local.device)
    return nn.functional.normalize(rooted.flatten(1)[:, upper], dim=1)


def _matrix_root(moments: Tensor) -> Tensor:
    """Square roots of symmetric matrices without negative eigenvalues ``(B, C, C)``, up to a factor of each.

    By the coupled iteration of Newton and Schulz (Li, Xie, Wang, Gao, "Towards faster training of global covariance
    pooling networks by iterative matrix square root normalization", CVPR 2018, equation 4): products alone, so that
    every device and exported model computes the same. Stopped early, it leaves eigenvalues small that are mere noise.
    """
    size: Tensor = torch.linalg.matrix_norm(moments, keepdim=True).clamp(min=1e-12)
    one = torch.eye(moments.shape[1], device=moments.device)
    found: Tensor = moments / size
    inverse = one.expand_as(moments)
    for _ in range(ROOT_STEPS):
        step = 1.5 * one - 0.5 * inverse @ found
        found, inverse = found @ step, step @ inverse
    return found


def build_encoder(
    name: str,
    weights: str = "pretrained",
    pooling: Pooling = "own",
    inner: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    second_order: Sequence[str] = (),
    second_order_root: Root = "matrix",
    second_order_halves: bool = False,
) -> Encoder:
    """Make an encoder by its timm or torchvision name.

    Args:
        name: a timm name, else a torchvision name; ``torchvision/NAME`` asks torchvision alone.
        weights: ``pretrained`` (fetched once by timm or torchvision), ``package`` (an installed package's, see
            :mod:`graticule.model.packaged`), ``none``, or the path of a state dict or of a
            hub's folder with one, converted as timm converts what it fetches.
        pooling: ``own`` is the network's; the others pool its last feature map or tokens.
        inner, second_order, second_order_root, second_order_halves: see :class:`Encoder`.
        options: more arguments for the network, such as ``img_size``.

    Raises:
        BadRecipeError: an unknown name, weights that cannot be fetched or do not fit, or a pooling the network lacks.
    """
    plain = name.removeprefix("torchvision/")
    moments = (second_order, second_order_root, second_order_halves)
    torchvision_names = torchvision.models.list_models(module=torchvision.models)
    if plain == name and timm.is_model(name.partition(".")[0]):
        return _from_timm(name, weights, pooling, inner, dict(options or {}), moments)
    if plain in torchvision_names:
        if weights == "package":
            raise BadRecipeError("encoder.weights: package is for timm encoders; say pretrained, or name a file")
        if pooling != "own":
            raise BadRecipeError(f"pooling: {pooling} is for timm encoders; {plain} of torchvision has its own")
        return _from_torchvision(plain, weights, inner, dict(options or {}), moments)
    near = difflib.get_close_matches(plain, sorted({*timm.list_models(), *torchvision_names}), n=3, cutoff=0.5)
    hint = f"near ones: {', '.join(near)}" if near else "timm.list_models() lists the names"
    raise BadRecipeError(f"no encoder is called {name!r}; {hint}")


def _from_timm(
    name: str,
    weights: str,
    pooling: Pooling,
    inner: Sequence[str],
    options: dict[str, Any],
    moments: tuple[Sequence[str], Root, bool],
) -> Encoder:
    options = {"num_classes": 0} | {k: v for k, v in options.items() if k != "num_classes"}
    state = None
    if weights == "package":
        state = {key: value for key, value in packaged_state(name).items() if not key.startswith("classifier.")}
        options |= {"pretrained_cfg_overlay": {"state_dict": state, "num_classes": 0}}
    elif weights not in ("pretrained", "none"):
        usual = timm.get_pretrained_cfg(name)
        classifier = (usual and usual.classifier) or "classifier"
        state = _read_state(Path(weights), (classifier,) if isinstance(classifier, str) else tuple(classifier))
        # As timm itself loads what it fetches: renamed keys, position embeddings of another size. All must fit.
        options |= {"pretrained_cfg_overlay": {"state_dict": state, "num_classes": 0}}
    if weights == "pretrained":
        _check_hub(name)
    try:
        body = timm.create_model(name, pretrained=weights != "none", **options)
    except TypeError as error:
        raise BadRecipeError(f"encoder {name} does not take these options: {error}") from error
    except (OSError, RuntimeError, ValueError) as error:
        if state is None:
            raise _cannot_fetch(name, error) from error
        body = timm.create_model(name, **{k: v for k, v in options.items() if k != "pretrained_cfg_overlay"})
        raise _does_not_fit(body, Path(weights), state, error) from error
    body.pretrained_cfg.pop("state_dict", None)  # the weights are in the network
    if pooling != "own" and not hasattr(body, "forward_features"):
        raise BadRecipeError(f"{name} has no feature map to pool; use pooling: own")
    # The centre crop that timm evaluates with (crop_pct) is left out: it would cut the sides of wide street views.
    config = resolve_model_data_config(body)
    side = options.get("img_size") or config["input_size"][1:]
    size = (3, side, side) if isinstance(side, int) else (3, *side)
    bicubic = weights != "none" and config["interpolation"] == "bicubic"
    interpolation: Interpolation = "bicubic" if bicubic else "bilinear"
    mean, std = (body.pretrained_cfg.get(name, HALF) for name in ("mean", "std"))
    return Encoder(body, pooling, inner, mean, std, size, interpolation, *moments)


def _from_torchvision(
    name: str, weights: str, inner: Sequence[str], options: dict[str, Any], moments: tuple[Sequence[str], Root, bool]
) -> Encoder:
    try:
        body = torchvision.models.get_model(name, weights="DEFAULT" if weights == "pretrained" else None, **options)
    except TypeError as error:
        raise BadRecipeError(f"encoder {name} does not take these options: {error}") from error
    except (OSError, RuntimeError) as error:
        raise _cannot_fetch(name, error) from error
    linear = [key for key, module in body.named_modules() if isinstance(module, nn.Linear)][-1]
    parent, _, attribute = linear.rpartition(".")
    owner = body.get_submodule(parent)
    setattr(owner, attribute, nn.Identity())
    if weights not in ("pretrained", "none"):
        state = _read_state(Path(weights), (linear,))
        try:
            body.load_state_dict(state)
        except RuntimeError as error:
            raise _does_not_fit(body, Path(weights), state, error) from error
    interpolation: Interpolation = "bilinear"
    if weights == "none":
        mean, std, side = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 224
    else:
        # Which weights a local file holds is not written in it; those of today's default are the likeliest.
        said = torchvision.models.get_model_weights(name)["DEFAULT"].transforms()
        mean, std = tuple(said.mean), tuple(said.std)
        side, interpolation = said.crop_size[0], said.interpolation.value
    side = int(getattr(body, "image_size", side))  # that of a transformer is built in
    return Encoder(body, "own", inner, mean, std, (3, side, side), interpolation, *moments)


def _read_state(path: Path, classifier: tuple[str, ...]) -> dict[str, Tensor]:
    """A state dict from a file or a hub's folder, without the classifier that we replace.

    Read by timm itself, with ``weights_only``: what it finds in a checkpoint (``state_dict``, an average, a wrapper's
    prefix) it finds here.
    """
    try:
        state = timm.models.load_state_dict(str(_weights_file(path)), weights_only=True)
    except FileNotFoundError as error:
        raise BadRecipeError(
            f"no weights at {path}; a recipe names it relative to its own folder, --set encoder.weights=FILE to the "
            f"current one; or say pretrained, or none"
        ) from error
    except BadRecipeError:
        raise
    except Exception as error:
        raise BadRecipeError(f"{path} is not a state dict that torch can read: {error}") from error
    return {key: value for key, value in state.items() if not key.startswith(tuple(f"{c}." for c in classifier))}


def _weights_file(path: Path) -> Path:
    """The file of weights of a folder as a hub has it; any other path as it is.

    Raises:
        BadRecipeError: a folder without such a file.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in HUB_FILES if (path / name).is_file()), None)
    if found is None:
        raise BadRecipeError(f"the folder {path} holds no weights ({', '.join(HUB_FILES)}); name the file itself")
    return found


def _does_not_fit(body: nn.Module, path: Path, state: Mapping[str, Tensor], error: Exception) -> BadRecipeError:
    missing, unknown = sorted(body.state_dict().keys() - state.keys()), sorted(state.keys() - body.state_dict().keys())
    if missing or unknown:
        return BadRecipeError(
            f"{path} does not fit this encoder: {len(missing)} weights are missing (such as {missing[:2]}), "
            f"{len(unknown)} are unknown (such as {unknown[:2]}); name the encoder that it was made for"
        )
    return BadRecipeError(f"{path} does not fit this encoder: {error}")


def _check_hub(name: str) -> None:
    """Ask once whether the hub answers where weights have to be fetched: its own client tries for a minute.

    Raises:
        BadRecipeError: it does not.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    usual = timm.get_pretrained_cfg(name)
    if usual is None or not usual.hf_hub_id or constants.HF_HUB_OFFLINE:
        return
    for file in HUB_FILES:
        if isinstance(try_to_load_from_cache(usual.hf_hub_id, usual.hf_hub_filename or file), str):
            return
    try:
        urlopen(Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except HTTPError:
        return  # it answers
    except OSError as error:
        raise _cannot_fetch(name, error) from error


def _cannot_fetch(name: str, error: Exception) -> NotFetchedError:
    return NotFetchedError(
        f"the pretrained weights of {name} could not be fetched ({type(error).__name__}: {str(error)[:200]}); they are "
        f"fetched over the network once. Without one, name a file of weights: --set encoder.weights=FILE"
    )
