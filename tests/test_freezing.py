"""What is frozen stays, to the last running mean, and the rest moves."""

import copy

import pytest
import torch

from graticule.config import parse_recipe
from graticule.errors import BadRecipeError
from graticule.model.freezing import freeze, frozen_parameters
from graticule.model.geolocator import build_geolocator

THEN = {"vit": "test_vit", "grid": 3}


def network(name, **encoder):
    size = {"test_vit": 160, "torchvision/vit_b_32": 224}.get(name, 64)
    model = build_geolocator(parse_recipe({"encoder": {"name": name, "weights": "none", **encoder}}), 4)
    return model, torch.rand(4, 3, size, size)


def moved(name, pattern, **encoder):
    """Which entries of the state a training step changes when the pattern is frozen."""
    model, images = network(name, **encoder)
    movable = {n for n, p in model.named_parameters() if p.requires_grad}
    freeze(model, frozen_parameters(model, [pattern]), movable)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    torch.nn.functional.cross_entropy(model(images).logits, torch.arange(4)).backward()
    optimizer.step()
    return {n.removeprefix("encoder.body.") for n, t in model.state_dict().items() if not torch.equal(t, before[n])}


@pytest.mark.parametrize(
    ("name", "pattern", "still", "moving"),
    [
        pytest.param("test_resnet", "encoder", ("conv", "bn", "layer"), ("head",), id="a whole CNN"),
        pytest.param("test_resnet", "head", ("head",), ("conv1", "bn1", "layer4"), id="the head"),
        pytest.param("test_resnet", "layer1", ("layer1",), ("conv1", "layer2", "layer4", "head"), id="a module"),
        pytest.param(
            "test_resnet", "encoder[:-1]", ("conv1", "bn1", "layer1", "layer3"), ("layer4", "head"), id="CNN but last"
        ),
        pytest.param("test_vit", "encoder[:-2]", ("cls", "patch", "blocks.3"), ("blocks.4", "norm"), id="ViT"),
        pytest.param("test_vit", "blocks[:-1]", ("blocks.0", "blocks.4"), ("blocks.5", "patch"), id="a row of blocks"),
        pytest.param("test_convnext", "encoder[:-1]", ("stem", "stages.0", "stages.2"), ("stages.3",), id="ConvNeXt"),
        pytest.param("test_efficientnet", "encoder[:-1]", ("conv_stem", "blocks.0"), ("conv_head",), id="EfficientNet"),
        pytest.param("torchvision/resnet18", "encoder[:-1]", ("bn1", "layer3"), ("layer4",), id="torchvision CNN"),
        pytest.param(
            "torchvision/shufflenet_v2_x0_5", "encoder[:-1]", ("conv1", "stage3"), ("stage4", "conv5"), id="shufflenet"
        ),
    ],
)  # fmt: skip
def test_what_is_frozen_stays_and_the_rest_moves(name, pattern, still, moving):
    found = moved(name, pattern)
    assert not [n for n in found if n.startswith(still)]
    assert all(any(n.startswith(part) for n in found) for part in moving)


@pytest.mark.parametrize(
    ("pattern", "still", "moving"),
    [
        pytest.param("cnn", ("cnn",), ("proj", "vit.blocks.0", "head"), id="cnn"),
        pytest.param("vit", ("vit",), ("proj", "cnn.layer4", "cnn.bn1.running_mean", "head"), id="vit"),
        pytest.param("encoder[:-1]", ("cnn", "proj", "vit.blocks.4"), ("vit.blocks.5", "head"), id="all but one block"),
        pytest.param("vit[:-2]", ("vit.blocks.3",), ("vit.blocks.4", "vit.blocks.5", "cnn"), id="vit but two blocks"),
    ],
)
def test_the_parts_of_a_hybrid_freeze_by_name(pattern, still, moving):
    found = moved("test_resnet", pattern, then=THEN)
    assert not [n for n in found if n.startswith(still)]
    assert all(any(n.startswith(part) for n in found) for part in moving)


def test_torchvisions_transformer_is_cut_between_its_layers():
    with torch.device("meta"):  # shapes without numbers: it is a large network
        model, _ = network("torchvision/vit_b_32")
    frozen = {n.removeprefix("encoder.body.") for n in frozen_parameters(model, ["encoder[:-2]"])}
    assert {"class_token", "conv_proj.weight", "encoder.pos_embedding"} <= frozen
    layers = {int(n.split("encoder_layer_")[1].split(".")[0]) for n in frozen if "encoder_layer_" in n}
    assert layers == set(range(10))
    assert not [n for n in frozen if n.startswith("encoder.ln")]


def test_what_thaws_moves_again():
    model, _ = network("test_resnet")
    movable = {n for n, _ in model.named_parameters()}
    freeze(model, frozen_parameters(model, ["encoder"]), movable)
    assert not model.encoder.body.bn1.training
    freeze(model, set(), movable)
    assert model.encoder.body.bn1.training
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        pytest.param("layer11", "nothing to freeze is called 'layer11'; there are layer1", id="near name"),
        pytest.param("vit", "there are encoder, head", id="no such part"),
        pytest.param("encoder[:-9]", "has 4 blocks after its first, so N is at most 4", id="too many blocks"),
    ],
)
def test_what_cannot_be_frozen_is_refused_with_a_sentence(pattern, sentence):
    model, _ = network("test_resnet")
    with pytest.raises(BadRecipeError, match=sentence):
        frozen_parameters(model, [pattern])
