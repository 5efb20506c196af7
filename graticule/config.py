"""What a run may be told: one frozen tree, read from one YAML file. Nothing here opens a photo or a model."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidationError, model_validator

from graticule.choices import (
    Answer,
    Coordinates,
    HeadKind,
    Interpolation,
    Optimizer,
    Pooling,
    Precision,
    Resize,
    Root,
    ScheduleName,
    TargetKind,
    TokenPosition,
)
from graticule.errors import BadRecipeError
from graticule.sections import CELLS, Cells, Count, Positive, S2Cells, Section, Share
from graticule.trees import find_recipe, locate_files, set_value, with_bundles_encoder


class Split(Section):
    """Which photos train, tune and test; ``by`` as for :func:`graticule.photos.splits.make_split`, any column included.

    ``auto`` is the most honest way that the table's columns allow.

    ``column`` takes the table's own column ``split``, and so does a recipe without this section where there is one.
    """

    by: Annotated[str, Field(min_length=1)] = "auto"
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
    at most ``longest`` without enlarging, and rounds both sides to a multiple of 16. ``crop`` brings the shorter side
    to its size and cuts the middle out, as CLIP was trained; it loses what lies at the sides. A size that is not
    given is the one that the encoder's weights were trained with.
    """

    resize: Resize = "squash"
    height: Count | None = None
    width: Count | None = None
    longest: Count | None = None
    interpolation: Interpolation | None = None  # none: that of the encoder's weights
    mean: tuple[float, float, float] | None = None  # of RGB in [0, 1]; none: the encoder's own
    std: tuple[Positive, Positive, Positive] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.resize == "fit" and (self.height or self.width):
            raise ValueError("resize: fit keeps each photo's aspect: give longest, not height and width")
        if self.resize != "fit" and self.longest:
            raise ValueError(f"resize: {self.resize} makes one shape: give height and width, not longest")
        return self

    def shape(self, own: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the squashed photo; ``own`` is the encoder's, taken where nothing is said."""
        return self.height or self.width or own[0], self.width or self.height or own[1]


class Augment(Section):
    """Changes of the training photos. No flips: they would swap the driving side and mirror the signs."""

    crop: Share = 0.0  # up to this share of each side is cut away at random
    light: Share = 0.0  # brightness, contrast and colour vary by up to this share
    erase: Share = 0.0  # a random rectangle of up to this share of the frame is greyed


class Then(Section):
    """The blocks of a timm transformer on top of the encoder's feature map, as report B joined them.

    ``position: none`` is report B's public code: neither position embedding nor final norm. ``learned`` adds the
    transformer's own position embedding, resized to the grid, and its final norm.
    """

    vit: str = "vit_small_patch16_224"
    grid: Count = 14  # the feature map is pooled to grid x grid tokens
    position: TokenPosition = "none"
    weights: str | None = None  # as encoder.weights; none given: pretrained or none, as the encoder's


class Encoder(Section):
    """Any timm or torchvision encoder by name; ``torchvision/NAME`` where both know the name."""

    name: str = "resnet50"
    weights: str = "pretrained"  # or "package", "none", or the path of a local state dict or hub folder
    frozen: bool = False
    pooling: Pooling = "own"
    inner: tuple[str, ...] = ()  # modules within, such as blocks.4, whose mean and spread stand beside the output
    second_order: tuple[str, ...] = ()  # modules by whose second moments photos are compared; heads do not read them
    second_order_root: Root = "matrix"
    second_order_halves: bool = False  # those of the upper and of the lower half of the photo too, each by itself
    options: dict[str, Any] = Field(default_factory=dict)
    then: Then | None = None

    @model_validator(mode="after")
    def _joins_what_can_be_joined(self) -> Self:
        if self.then is None:
            return self
        if self.frozen:
            raise ValueError(
                "the projection between the encoder and then.vit starts random, so frozen: true would keep it so; "
                "freeze [cnn, vit] in a stage of train.stages"
            )
        if self.pooling != "own" or self.inner or self.second_order:
            raise ValueError(
                "with then, the transformer's tokens are averaged; leave out pooling, inner and second_order"
            )
        if self.then.weights is None and self.weights not in ("pretrained", "package", "none"):
            raise ValueError("a local file holds the weights of one part; say those of the other in then.weights")
        return self

    @model_validator(mode="after")
    def _has_something_to_freeze(self) -> Self:
        if self.second_order and not self.frozen:
            raise ValueError("second_order is for comparing photos with known ones, which goes with frozen: true alone")
        if self.frozen and self.weights == "none":
            raise ValueError(
                "a frozen encoder with weights: none would stay random; "
                "give weights: pretrained, package or a local file, or frozen: false"
            )
        return self


class Head(Section):
    """What is made of the features: logits over cells, a position, or both from two linear layers side by side.

    A position is regressed in coordinates normalised by the training photos' mean and spread: ``plane`` is the
    tangent plane at their mean, for a city or a region; ``sphere`` a vector in space, which knows that 179.9 and
    -179.9 degrees are neighbours and suits a continent or the world. ``auto`` takes the plane where every training
    photo lies within 1,000 km of their mean, where it stretches distances by at most 1.3 %.
    """

    kind: HeadKind = "cells"
    widths: tuple[Count, ...] = ()  # of the layers of an imported head: matching and offsets
    above: Annotated[int, Field(ge=0)] = 0  # classes of a first question, such as countries; of matching alone
    refine: Annotated[int, Field(ge=0, le=6)] = 0  # rounds of a denser gallery around the best place; of matching alone
    hidden: Annotated[int, Field(ge=0)] | None = None  # none: as wide as a feature for position, else no such layer
    dropout: Share = 0.0
    hierarchy: bool = False  # a softmax at each branching of the S2 cells around the cells, not one over all cells
    coordinates: Coordinates | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _has_the_layers_of_its_kind(self) -> Self:
        if (self.kind in ("matching", "offsets")) != bool(self.widths):
            raise ValueError("widths goes with the imported kinds matching and offsets, and only there")
        if (self.above or self.refine) and self.kind != "matching":
            raise ValueError("above and refine go with kind: matching, and only there")
        if self.above and self.refine:
            raise ValueError("names of places cannot be refined; leave head.refine out, or head.above")
        if self.hierarchy and self.kind not in ("cells", "both"):
            raise ValueError(f"hierarchy is about cells that are trained; a head of kind: {self.kind} has none")
        return self


class Target(Section):
    """What the network should say: one cell, a smoothed one, or cells by distance.

    ``distance`` is PIGEON's haversine smoothing (arXiv 2307.05845, section 3.1): weights
    ``exp(-(d - d_min) / tau)`` over cells, normalised. ``tau_spacings`` gives tau in units of the partition's own
    median distance between neighbouring cells, so that one recipe serves a town and the world. ``alpha`` weighs the
    mean squared error of the position against the cells' loss where the head has both (report A, section 3.4).
    """

    kind: TargetKind = "one_cell"
    smoothing: Share | None = None
    tau_km: Positive | None = None
    tau_spacings: Positive | None = None
    alpha: Positive | None = None  # none: 1

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


class Stage(Section):
    """A run of epochs with some parts frozen.

    Args:
        freeze: parts that stay as they are: ``encoder``, ``head``, ``cnn`` and ``vit`` of an encoder with ``then``,
            any module of the encoder such as ``layer1``; each may end in ``[:-N]``, all of it but its last N blocks.
        lr: the rate that the schedule scales; none: train's.
        schedule, warmup: a stage that names one of them starts a schedule of its own; one that names none goes on
            with the schedule before it, so that train's may span the whole run.
    """

    epochs: Count
    freeze: tuple[str, ...] = ()
    lr: Positive | None = None
    schedule: ScheduleName | None = None
    warmup: Share | None = None


class Train(Section):
    """How the weights move. ``plateau`` halves the rate when the loss has not improved for three epochs.

    ``batch_size`` is all the photos of a step: several devices share them, and ``accumulate`` takes a device's share in
    so many parts, one after the other, so that neither changes what is learned.
    """

    stages: tuple[Stage, ...] = ()  # none: one stage of so many epochs with nothing frozen
    epochs: Count = Field(default_factory=lambda data: sum(s.epochs for s in data.get("stages", ())) or 20)
    batch_size: Count = 64
    optimizer: Optimizer = "adamw"
    lr: Positive = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    accumulate: Count = 1
    clip: Positive | None = None  # the longest that a step's gradient may be, over all weights; none: any length
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # keep the moving average of the weights, with this decay
    fused: bool = False  # torch's fused optimiser: the same formula, rounded differently
    channels_last: bool = False  # the weights of convolutions, too, with the colours side by side
    gradient_checkpointing: bool = False  # compute each block again in the backward pass instead of keeping it
    schedule: ScheduleName = "onecycle"
    warmup: Share = 0.1
    precision: Precision | Literal["auto"] = "auto"
    compile: bool = False
    check_memory: bool = True  # refuse a step that would not fit, before the first epoch
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of each cell's training photos; the cells stay as they are
    checkpoint_minutes: Positive = 10.0  # and at the end of each epoch
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"

    @model_validator(mode="after")
    def _counts_its_epochs_once(self) -> Self:
        total = sum(stage.epochs for stage in self.stages)
        if self.stages and self.epochs != total:
            raise ValueError(f"the stages make {total} epochs and epochs says {self.epochs}; leave epochs out")
        return self

    @property
    def plan(self) -> tuple[Stage, ...]:
        """The stages, of which there is always at least one."""
        return self.stages or (Stage(epochs=self.epochs),)


def _answer_of_the_head(data: dict[str, Any]) -> Answer:
    kind = data["head"].kind if "head" in data else "cells"
    return "regressed" if kind in ("position", "none") else "median"


class Recipe(Section):
    """Everything that a run needs besides the photos."""

    name: str = "unnamed"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    cells: Cells = S2Cells()
    split: Split = Split()
    image: Image = Image()
    augment: Augment = Augment()
    encoder: Encoder = Encoder()
    head: Head = Head()
    target: Target = Target()
    train: Train = Train()
    answer: Answer = Field(default_factory=_answer_of_the_head)
    temperature: Positive = 1.0  # divides the logits before the softmax
    remember: bool = True  # the bundle keeps positions, and features, of up to 5,000 training photos for its belief

    @model_validator(mode="after")
    def _frozen_features_are_computed_once(self) -> Self:
        if self.encoder.frozen and self.augment != Augment():
            raise ValueError(
                "a frozen encoder sees each photo once, so augment would do nothing; remove augment or the freeze"
            )
        if self.encoder.frozen and any(stage.freeze for stage in self.train.stages):
            raise ValueError("encoder.frozen: true freezes the whole encoder; stages that freeze go with frozen: false")
        return self

    @model_validator(mode="after")
    def _answers_with_what_the_head_has(self) -> Self:
        kind = self.head.kind
        if kind in ("cells", "matching") and not self.head.refine and self.answer == "regressed":
            raise ValueError("answer: regressed needs head.kind: position or both; this head has cells alone")
        if kind in ("position", "none") and self.answer != "regressed":
            raise ValueError(f"answer: {self.answer} needs cells; a head of kind: {kind} answers regressed")
        if kind == "position" and self.target != Target():
            raise ValueError("target is about cells; a head of kind: position has none, so leave target out")
        if kind != "both" and self.target.alpha is not None:
            raise ValueError("target.alpha weighs a position against cells; it goes with head.kind: both")
        if self.head.hierarchy and self.cells.kind not in ("s2", "semantic"):
            raise ValueError(
                f"head.hierarchy runs down S2 cells, so it goes with cells.kind: s2 or semantic; here the kind is "
                f"{self.cells.kind}"
            )
        return self


def read_recipe(recipe: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from YAML.

    A file of weights is relative to the recipe's folder where the recipe names it, and to the current one where
    ``overrides`` do. So is ``encoder.bundle``, which stands for the encoder of a bundle, its weights and its way to
    make a photo a tensor.

    Args:
        recipe: as for :func:`graticule.trees.find_recipe`.
        overrides: values by dotted name, such as ``{"train.epochs": 2}``.

    Raises:
        BadRecipeError: no such file, no YAML, an unknown name, an impossible or a contradicting value.
    """
    import yaml

    path = find_recipe(recipe)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise BadRecipeError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadRecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise BadRecipeError(f"{path} should hold settings such as 'seed: 0'; found {type(tree).__name__}")
    locate_files(tree, path.parent)
    if overrides and "encoder.bundle" in overrides:  # it brings its own encoder and its own way to see a photo
        tree = {name: value for name, value in tree.items() if name not in ("encoder", "image")}
    for dotted, value in (overrides or {}).items():
        set_value(tree, dotted.split("."), value)
    locate_files(tree, Path())
    return parse_recipe(with_bundles_encoder(tree), where=str(recipe))


def parse_recipe(tree: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """Check a tree of plain values.

    Raises:
        BadRecipeError: naming every setting that is wrong, and the nearest known name for each unknown one.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        # A default that grows from a setting which is wrong is not worth a sentence of its own.
        found = [problem for problem in error.errors() if problem["type"] != "default_factory_not_called"]
        problems = "; ".join(dict.fromkeys(_explain(problem, found) for problem in found))
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


def _explain(problem: Any, problems: Sequence[Any]) -> str:
    path = [str(part) for part in problem["loc"]]
    kind = path.pop(1) if path[:1] == ["cells"] and len(path) > 1 else None  # the union's tag is no name of a setting
    if problem["type"] == "union_tag_invalid":
        return f"cells.kind: should be {', '.join(CELLS)}, found {problem['ctx']['tag']!r}"
    if kind and problem["type"] == "missing":
        wanted = [name for name in CELLS[kind].model_fields if name != "kind"]
        lacking = [other["loc"][-1] for other in problems if other["type"] == "missing" and "cells" in other["loc"]]
        return f"cells: kind: {kind} takes {' and '.join(wanted)}; not given: {', '.join(lacking)}"
    if problem["type"] == "extra_forbidden":
        section: Any = CELLS[kind] if kind else Recipe
        for part in path[:-1] if not kind else ():
            if not part.isdigit():  # the number of an entry in a list of sections
                section = _section_of(section.model_fields[part].annotation)
        kinds = [other for other, settings in CELLS.items() if path[-1] in settings.model_fields]
        if kind and kinds:
            return f"cells: {path[-1]} goes with kind: {' or '.join(kinds)}; here the kind is {kind}"
        near = difflib.get_close_matches(path[-1], section.model_fields, n=1)
        hint = (
            f"did you mean {'.'.join([*path[:-1], near[0]])}?"
            if near
            else f"known here: {', '.join(section.model_fields)}"
        )
        return f"unknown setting {'.'.join(path)}; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    name = ".".join(part for part in path if part not in ("int", "float")) or "settings"
    found = "" if isinstance(problem["input"], dict) else f", found {problem['input']!r}"
    return f"{name}: {message}{found}"


def _section_of(annotation: Any) -> Any:
    """The section within ``Section``, ``Section | None`` or ``tuple[Section, ...]``."""
    inner = (annotation, *get_args(annotation))
    return next(a for a in inner if isinstance(a, type) and issubclass(a, Section))
