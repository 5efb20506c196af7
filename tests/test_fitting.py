"""The training loop: what is counted, what decays, in which arithmetic."""

import numpy as np
import psutil
import pytest
import timm
import torch
from torch.nn import functional
from towns import make_town, tiny_recipe

from graticule.config import Recipe
from graticule.errors import BadRecipeError, NotEnoughMemoryError
from graticule.model import folding
from graticule.model.encoders import build_encoder
from graticule.model.features import encode
from graticule.model.folding import folded
from graticule.model.geolocator import build_geolocator, preprocess_of
from graticule.model.heads import Output
from graticule.model.preprocess import Augment
from graticule.partition import NO_CELL, CellPartition
from graticule.training import loop
from graticule.training.fit import fit
from graticule.training.loop import EpochMetrics, TrainingModule, chosen_precision
from graticule.training.memory import recompute, step_bytes


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def partition():
    lat, lon = np.repeat([0.5, 0.5, -0.5, -0.5], 10), np.repeat([0.5, -0.5, 0.5, -0.5], 10)
    return CellPartition.fit(lat, lon, split_above=15, drop_below=1, max_level=8)


def module_for(partition, **changes):
    recipe = tiny_recipe(**changes)
    return TrainingModule(build_geolocator(recipe, len(partition)), partition, recipe, 1.0, steps_per_epoch=3)


def test_the_validation_loss_is_the_mean_over_the_photos_that_have_a_cell(partition):
    """Batches of 4, 4 and 1 photos, of which 1, 0 and 1 lie in a cell."""
    module = module_for(partition)
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(9, len(partition), generator=rng)
    rows = torch.tensor([2, NO_CELL, NO_CELL, NO_CELL, NO_CELL, NO_CELL, NO_CELL, NO_CELL, 0])
    spots = functional.normalize(torch.randn(9, 3, generator=rng, dtype=torch.float64))
    for part in torch.arange(9).split(4):
        batch = {"row": rows[part], "position": spots[part]}
        said = Output(logits[part], None)
        module.seen.add(said, module._losses(said, batch), part)
    inside = rows != NO_CELL
    assert module.seen.loss() == pytest.approx(float(functional.cross_entropy(logits[inside], rows[inside])), rel=1e-6)


def test_distance_targets_count_every_photo(partition):
    module = module_for(partition, target={"kind": "distance", "tau_km": 50.0})
    batch = {"row": torch.full((3,), NO_CELL), "position": torch.eye(3, dtype=torch.float64)}
    [(loss, count)] = module._losses(Output(torch.zeros(3, len(partition)), None), batch)
    assert count == 3
    assert torch.isfinite(loss)


def test_validation_keeps_no_matrix_of_logits(partition):
    seen = EpochMetrics()
    seen.add(Output(torch.randn(5, 1000), None), [(torch.tensor(1.0), 5)], torch.arange(5))
    assert sum(tensor.numel() for kept in (seen.index, seen.cells, seen.positions) for tensor in kept) == 10


def test_a_validation_loss_that_is_no_number_stops_the_run(town, monkeypatch):
    monkeypatch.setattr(loop.EpochMetrics, "loss", lambda self: float("nan"))
    with pytest.raises(BadRecipeError, match="the validation loss became nan in epoch 1; lower train.lr"):
        fit(tiny_recipe(train={"epochs": 2}), town.take(np.arange(0, 96, 2)), town.take(np.arange(1, 96, 2)))


def test_weights_decay_and_biases_norms_and_position_embeddings_do_not(partition):
    module = module_for(
        partition, encoder={"name": "test_vit"}, image={"height": 160, "width": 160}, train={"weight_decay": 0.3}
    )
    optimizer = module.configure_optimizers()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in module.net.named_parameters()}
    assert {name for name, value in found.items() if value == 0} == {
        name
        for name, p in module.net.named_parameters()
        if p.ndim == 1 or name.split(".")[-1] in ("pos_embed", "cls_token")
    }
    assert set(found.values()) == {0.0, 0.3}


def test_augmentation_is_exact_under_autocast():
    images = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    augment = Augment(0.2, 0.0, 0.0)
    torch.manual_seed(1)
    exact = augment(images)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=0)


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_a_card_is_asked_whether_it_multiplies_bfloat16(monkeypatch, native, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert chosen_precision(Recipe())[0] == chosen


def test_a_size_that_is_not_given_is_that_of_the_weights(town):
    assert build_encoder("vit_tiny_patch16_384", "none").input_size == (384, 384)
    assert Recipe().image.shape((384, 384)) == (384, 384)
    recipe = tiny_recipe(encoder={"name": "test_vit"}, image={"height": None, "width": None}, train={"epochs": 1})
    found = fit(recipe, town)
    assert (found.preprocess.height, found.preprocess.width) == (160, 160)


def test_the_weights_say_how_photos_are_resized_and_the_recipe_overrides(tmp_path, town):
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=0).state_dict(), weights)
    assert build_encoder("test_efficientnet", str(weights)).interpolation == "bicubic"
    assert (
        build_encoder("test_efficientnet", "none").interpolation == "bilinear"
    )  # of no weights there is nothing to say
    recipe = tiny_recipe(encoder={"weights": str(weights)}, train={"epochs": 1})
    assert fit(recipe, town).preprocess.interpolation == "bicubic"
    recipe = tiny_recipe(encoder={"weights": str(weights)}, train={"epochs": 1}, image={"interpolation": "bilinear"})
    assert fit(recipe, town).preprocess.interpolation == "bilinear"


def test_a_size_that_a_transformer_does_not_take_is_refused_with_a_sentence(town):
    with pytest.raises(
        BadRecipeError, match="vit_tiny_patch16_224 is made for photos of 224x224 and does not take 32x32"
    ):
        fit(tiny_recipe(encoder={"name": "vit_tiny_patch16_224"}), town)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("encoder", ["test_vit", "test_resnet"])
def test_the_memory_of_a_step_is_that_of_a_real_one(partition, encoder, precision):
    """The estimate for sixteen photos against all that a training step on them keeps, counted at its end.

    In bfloat16 the weights' copies are kept too: once a step and not once a photo.
    """
    recipe = tiny_recipe(encoder={"name": encoder}, image={"height": 160, "width": 160}, train={"precision": precision})
    model = build_geolocator(recipe, len(partition))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    a_step, a_photo = step_bytes(model, recipe, (160, 160), "cpu")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    weights, kept = {p.data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    images = torch.rand(16, 3, 160, 160)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        loss = functional.cross_entropy(model.train()(images).logits, torch.zeros(16, dtype=torch.int64))
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights) + images.nbytes
    assert loss.isfinite()
    assert a_step + 16 * a_photo == pytest.approx(real, rel=0.03)


def test_a_step_that_seems_too_large_can_be_tried_all_the_same(town, monkeypatch):
    class Free:
        available = 1

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    with pytest.raises(NotEnoughMemoryError, match="train.check_memory: false"):
        fit(tiny_recipe(train={"epochs": 1}), town)
    assert fit(tiny_recipe(train={"epochs": 1, "check_memory": False}), town).facts["cells"] == 4


VIT = {"encoder": {"name": "test_vit"}, "image": {"height": 160, "width": 160}}  # without batch normalisation
STEPS = {"epochs": 1, "batch_size": 24, "optimizer": "adam", "lr": 1e-3, "schedule": "constant", "warmup": 0.0}


def moved(town, **train):
    """The weights after two steps, and how far they moved."""
    recipe = tiny_recipe(**VIT, train=STEPS | train)
    bundle = fit(recipe, town.take(np.arange(48)))
    start = build_geolocator(recipe, len(bundle.partition)).state_dict()
    return {name: value - start[name] for name, value in bundle.model.state_dict().items()}


def far(one, two):
    """How unlike two moves are, as a share of the first."""
    flat = [torch.cat([move[name].flatten() for name in one]) for move in (one, two)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.fixture(scope="module")
def plainly_moved(town):
    return moved(town)


@pytest.mark.parametrize(
    "same", [{"accumulate": 3}, {"fused": True}, {"channels_last": True}, {"gradient_checkpointing": True}]
)
def test_how_a_step_is_computed_changes_nothing_of_what_is_learned_but_rounding(town, plainly_moved, same):
    assert far(plainly_moved, moved(town, **same)) < 2e-3


def test_a_gradient_is_no_longer_than_the_clip(partition):
    module = module_for(partition, train={"clip": 0.5})
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.configure_gradient_clipping(None)
    assert float(torch.cat([p.grad.flatten() for p in module.parameters()]).norm()) == pytest.approx(0.5, rel=1e-4)


def test_the_moving_average_is_torchs_own(town):
    """After two steps: decay * (weights after the first) + (1 - decay) * (weights after the second)."""
    one, two, mean = (moved(town, batch_size=48, **train) for train in ({}, {"epochs": 2}, {"epochs": 2, "ema": 0.9}))
    for name, value in mean.items():
        torch.testing.assert_close(value, 0.9 * one[name] + 0.1 * two[name], rtol=1e-4, atol=1e-6)


def test_an_encoder_whose_blocks_cannot_be_computed_again_says_so(town):
    recipe = tiny_recipe(encoder={"name": "torchvision/shufflenet_v2_x0_5"}, train={"gradient_checkpointing": True})
    with pytest.raises(BadRecipeError, match="this one cannot. Leave it out"):
        fit(recipe, town)


def test_computing_blocks_again_keeps_fewer_bytes(partition):
    recipe = tiny_recipe(**VIT)
    model = build_geolocator(recipe, len(partition))
    plain = step_bytes(model, recipe, (160, 160), "cpu")[1]
    recompute(model)
    assert step_bytes(model, recipe, (160, 160), "cpu")[1] < 0.7 * plain


@pytest.mark.parametrize(("losses", "stopped"), [([1.0] * 7 + [float("nan")], True), ([1.0] * 20, False)])
def test_a_loss_that_is_no_number_stops_within_eight_steps(losses, stopped):
    assert (steps_until_stopped(losses) == 8) is stopped


def test_a_loss_that_explodes_stops_within_eight_steps_and_a_bump_does_not():
    assert steps_until_stopped([3.0] * 8 + [9.0] * 8 + [3.0] * 8) is None
    assert steps_until_stopped([3.0] * 8 + [100.0] * 8 + [3.0] * 8) == 16
    assert steps_until_stopped([0.01] * 8 + [5.0] * 8) is None  # as a fine-tuned network may begin


def steps_until_stopped(losses):
    history = loop.History(Recipe(), lambda *told: None, None)

    class Trainer:
        current_epoch = global_step = 0
        max_epochs = 1

    class Module:
        schedule = Trainer()
        schedule.steps = 100

    for step, loss in enumerate(losses):
        try:
            history.on_train_batch_end(Trainer, Module, {"loss": torch.tensor(loss)}, {"of": 4}, step)
        except BadRecipeError:
            return step + 1
    return None


@pytest.mark.parametrize("target", [{"kind": "one_cell"}, {"kind": "smoothed", "smoothing": 0.1}])
def test_a_batch_with_no_photo_in_any_cell_teaches_nothing_and_spoils_nothing(partition, target):
    module = module_for(partition, target=target)
    logits = torch.randn(3, len(partition), requires_grad=True)
    batch = {"row": torch.full((3,), NO_CELL), "position": torch.eye(3, dtype=torch.float64)}
    loss = module._loss(Output(logits, None), batch)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_the_position_embedding_of_a_hybrid_does_not_decay(partition):
    encoder = {"name": "test_resnet", "then": {"vit": "test_vit", "grid": 3, "position": "learned"}}
    module = module_for(partition, encoder=encoder, train={"weight_decay": 0.3})
    groups = module.configure_optimizers().param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decay[id(module.net.encoder.body.pos_embed)] == 0
    assert decay[id(module.net.encoder.body.proj.weight)] == 0.3


def test_features_by_threads_are_those_of_one_process_and_a_broken_photo_comes_once(tmp_path):
    recipe = tiny_recipe()
    paths = make_town(tmp_path, count=72).paths()
    paths[7].write_bytes(b"no photo")
    model = build_geolocator(recipe, 4).eval()
    found = [{}, {}]
    for workers, features in zip(("auto", 0), found, strict=True):
        for index, rows, errors in encode(model, preprocess_of(model, recipe), paths, workers=workers):
            features |= dict(zip(index.tolist(), rows, strict=True)) | dict.fromkeys(errors)
    assert sorted(found[0]) == sorted(found[1]) == list(range(72))
    assert found[0][7] is None
    assert all(torch.allclose(found[0][i], found[1][i], atol=1e-5) for i in range(72) if i != 7)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(module.weight.is_contiguous() for module in convolutions)  # the network itself stays as it is


def test_convolutions_take_over_what_normalises_them_and_only_where_the_features_stay(monkeypatch):
    encoder = build_geolocator(tiny_recipe(encoder={"inner": ["blocks.1"]}), 4).eval().encoder
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    images = torch.rand(2, 3, 64, 48)
    quick = folded(encoder)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in quick.modules())
    torch.testing.assert_close(quick(images), encoder(images), rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(folding, "fuse_conv_bn_eval", lambda convolution, norm: convolution)
    assert folded(encoder) is encoder
