"""What a run may be told: one frozen tree, read from one YAML file. Nothing here opens a photo or a model."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from graticule.errors import BadRecipeError

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cells(Section):
    """The division of the map (PlaNet, arXiv 1602.05314, section 3.1; ``nested`` as report A wrote it)."""

    split_above: Count = 1000
    drop_below: Count = 50
    max_level: Annotated[int, Field(ge=0, le=30)] = 18
    keep: Literal["planet", "nested"] = "planet"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.drop_below > self.split_above:
            raise ValueError(
                f"drop_below={self.drop_below} exceeds split_above={self.split_above}: every cell that is "
                f"small enough to keep would be dropped; make drop_below the smaller of the two"
            )
        return self


class Split(Section):
    """Which photos train, tune and test; ``by`` as for :func:`graticule.splits.make_split`, any column included.

    ``column`` takes the table's own column ``split``, and so does a recipe without this section where there is one.
    """

    by: Annotated[str, Field(min_length=1)] = "sequence"
    val: Share = 0.1
    test: Share = 0.2
    block_km: Positive | None = None  # none: 0.2 by block, 100 by world
    buffer_km: Annotated[float, Field(ge=0)] | None = None  # none: 0.1 by block, 10 by world

    @model_validator(mode="after")
    def _leaves_some_to_train(self) -> Self:
        if self.val + self.test >= 1:
            raise ValueError(f"val={self.val} and test={self.test} leave no photos to train on")
        return self


class Image(Section):
    """How a photo becomes a tensor.

    ``squash`` makes every photo ``height`` x ``width``; ``fit`` keeps its own aspect, makes the longest side
    at most ``longest`` without enlarging, and rounds both sides to a multiple of 16.
    """

    resize: Literal["squash", "fit"] = "squash"
    height: Count | None = None
    width: Count | None = None
    longest: Count | None = None
    mean: tuple[float, float, float] | None = None  # of RGB in [0, 1]; none: the encoder's own
    std: tuple[Positive, Positive, Positive] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.resize == "fit" and (self.height or self.width):
            raise ValueError("resize: fit keeps each photo's aspect: give longest, not height and width")
        if self.resize == "squash" and self.longest:
            raise ValueError("resize: squash makes one shape: give height and width, not longest")
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the squashed photo; 224 where nothing is said."""
        return self.height or self.width or 224, self.width or self.height or 224


class Augment(Section):
    """Changes of the training photos. No flips: they would swap the driving side and mirror the signs."""

    crop: Share = 0.0  # up to this share of each side is cut away at random
    light: Share = 0.0  # brightness, contrast and colour vary by up to this share
    erase: Share = 0.0  # a random rectangle of up to this share of the frame is greyed


class Encoder(Section):
    """Any timm or torchvision encoder by name; ``torchvision/NAME`` where both know the name."""

    name: str = "resnet50"
    weights: str = "pretrained"  # or "none", or the path of a local state dict
    frozen: bool = False
    pooling: Literal["own", "average", "average+gem"] = "own"
    inner: tuple[str, ...] = ()  # modules within, such as blocks.4, whose mean and spread stand beside the output
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _has_something_to_freeze(self) -> Self:
        if self.frozen and self.weights == "none":
            raise ValueError(
                "a frozen encoder with weights: none would stay random; "
                "give weights: pretrained or a local file, or frozen: false"
            )
        return self


class Head(Section):
    """From features to cells: one linear layer, with a hidden layer before it where asked."""

    hidden: Annotated[int, Field(ge=0)] = 0
    dropout: Share = 0.0


class Target(Section):
    """What the network should say: one cell, a smoothed one, or cells by distance.

    ``distance`` is PIGEON's haversine smoothing (arXiv 2307.05845, section 3.1): weights
    ``exp(-(d - d_min) / tau)`` over cells, normalised. ``tau_spacings`` gives tau in units of the partition's own
    median distance between neighbouring cells, so that one recipe serves a town and the world.
    """

    kind: Literal["one_cell", "smoothed", "distance"] = "one_cell"
    smoothing: Share | None = None
    tau_km: Positive | None = None
    tau_spacings: Positive | None = None

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if (self.smoothing is not None) != (self.kind == "smoothed"):
            raise ValueError("smoothing goes with kind: smoothed, and only there")
        given = [name for name in ("tau_km", "tau_spacings") if getattr(self, name) is not None]
        if self.kind == "distance" and len(given) != 1:
            raise ValueError(f"kind: distance takes tau_km or tau_spacings, one of them; found {given or 'none'}")
        if self.kind != "distance" and given:
            raise ValueError(f"{given[0]} goes with kind: distance; this recipe says kind: {self.kind}")
        return self


class Train(Section):
    epochs: Count = 20
    batch_size: Count = 64
    lr: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup: Share = 0.1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"


class Recipe(Section):
    """Everything that a run needs besides the photos."""

    name: str = "unnamed"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    cells: Cells = Cells()
    split: Split = Split()
    image: Image = Image()
    augment: Augment = Augment()
    encoder: Encoder = Encoder()
    head: Head = Head()
    target: Target = Target()
    train: Train = Train()
    answer: Literal["median", "mode", "center"] = "median"
    temperature: Positive = 1.0  # divides the logits before the softmax

    @model_validator(mode="after")
    def _frozen_features_are_computed_once(self) -> Self:
        if self.encoder.frozen and self.augment != Augment():
            raise ValueError(
                "a frozen encoder sees each photo once, so augment would do nothing; remove augment or the freeze"
            )
        return self


def read_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from YAML; a local weights file is taken relative to the recipe's folder.

    Args:
        overrides: values by dotted name, such as ``{"train.epochs": 2}``.

    Raises:
        BadRecipeError: no such file, no YAML, an unknown name, an impossible or a contradicting value.
    """
    import yaml

    try:
        tree = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise BadRecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise BadRecipeError(f"{path} should hold settings such as 'seed: 0'; found {type(tree).__name__}")
    for dotted, value in (overrides or {}).items():
        _set(tree, dotted.split("."), value)
    recipe = parse_recipe(tree, where=str(path))
    weights = recipe.encoder.weights
    if weights not in ("pretrained", "none"):
        local = (path.parent / weights).resolve()
        recipe = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"weights": str(local)})})
    return recipe


def parse_recipe(tree: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Check a tree of plain values.

    Raises:
        BadRecipeError: naming every setting that is wrong, and the nearest known name for each unknown one.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors())
        raise BadRecipeError(f"{where}: {problems}") from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``train.epochs=2`` pairs; the values are YAML.

    Raises:
        BadRecipeError: a pair without ``=``.
    """
    import yaml

    overrides = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise BadRecipeError(f"--set takes name=value, such as train.epochs=2; found {pair!r}")
        overrides[name.strip()] = yaml.safe_load(value)
    return overrides


def _set(tree: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            raise BadRecipeError(f"{'.'.join(names)} cannot be set: {name} is a single value")
    tree[names[-1]] = value


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        section: Any = Recipe
        for part in path[:-1]:
            section = section.model_fields[part].annotation
        near = difflib.get_close_matches(path[-1], section.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(section.model_fields)}"
        return f"unknown setting {'.'.join(path)}; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    name = ".".join(part for part in path if part not in ("int", "float")) or "settings"
    found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return f"{name}: {message}{found}"
