import io

import numpy as np
import pytest
import torch
from PIL import Image

from graticule.model.preprocess import Augment, Preprocess

SCALING = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def png(height, width, seed=0):
    rgb = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param((228, 400), (224, 400), id="already small: only rounded to the stride"),
        pytest.param((480, 640), (384, 512), id="shrunk, aspect kept"),
        pytest.param((640, 480), (512, 384), id="upright"),
        pytest.param((20, 17), (16, 16), id="tiny: one stride"),
        pytest.param((100, 5000), (16, 512), id="panorama"),
    ],
)
def test_fit_keeps_the_aspect_and_rounds_to_the_stride(size, expected):
    fit = Preprocess("fit", 224, 224, 512, **SCALING)
    assert fit.shape_for(*size) == expected
    assert tuple(fit(png(*size)).shape) == (3, *expected)


def test_squash_makes_every_photo_one_shape():
    squash = Preprocess("squash", 96, 160, 224, **SCALING)
    assert {tuple(squash(png(*size)).shape) for size in [(100, 300), (300, 100)]} == {(3, 96, 160)}


def test_resizing_is_within_a_grey_level_of_pillow():
    data = png(480, 640)
    ours = Preprocess("squash", 224, 224, 224, **SCALING)(data).permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(float) - pillow).mean() < 1


def test_preprocessing_survives_json():
    one = Preprocess("fit", 224, 224, 512, **SCALING)
    assert Preprocess.from_json(one.to_json() | {"mean": [0.5, 0.5, 0.5]}) == one


def test_augmentation_repeats_with_the_seed_and_stays_in_range():
    images = torch.rand(4, 3, 32, 48)
    augment = Augment(crop=0.3, light=0.4, erase=0.2)
    seen = []
    for _ in range(2):
        torch.manual_seed(3)
        seen.append(augment(images))
    assert torch.equal(*seen)
    assert seen[0].shape == images.shape
    assert 0 <= seen[0].min() <= seen[0].max() <= 1
    assert not torch.allclose(seen[0], images)


def test_no_augmentation_changes_nothing():
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(Augment(0, 0, 0)(images), images)


def test_augmentation_never_mirrors():
    left_bright = torch.linspace(1, 0, 64).expand(64, 3, 32, 64)
    torch.manual_seed(0)
    out = Augment(crop=0.5, light=0, erase=0)(left_bright)
    assert (out[..., :8].mean((1, 2, 3)) > out[..., -8:].mean((1, 2, 3))).all()
