"""Explanations against captum, against gradients by hand, and against a network whose reason is known."""

import json

import captum.attr
import numpy as np
import pytest
import torch
from conftest import encoded, exif_of, picture
from PIL import Image
from test_cli import graticule
from torch import nn
from towns import tiny_recipe

from graticule.errors import BadPhotoError, BadRecipeError
from graticule.explaining import methods, render
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.model.heads import Head
from graticule.model.preprocess import Preprocess
from graticule.partition import CellPartition

HEATS = sorted(methods.METHODS)


def make_locator(encoder="test_resnet", side=64, **sections):
    """A bundle that was never trained: explanations hold for any weights."""
    lat, lon = np.repeat([0.5, 0.5, -0.5, -0.5], 10), np.repeat([0.5, -0.5, 0.5, -0.5], 10)
    partition = CellPartition.fit(lat, lon, split_above=15, drop_below=1, max_level=8)
    recipe = tiny_recipe(encoder={"name": encoder, "weights": "none"} | sections, image={"height": side, "width": side})
    model = build_geolocator(recipe, len(partition))
    torch.manual_seed(0)
    nn.init.normal_(model.head.cells.weight)  # far from even answers, so that differences are above rounding
    preprocess = Preprocess("squash", side, side, side, model.encoder.mean, model.encoder.std)
    return Locator(Bundle(model, partition, preprocess, recipe), device="cpu")


class Corner(nn.Module):
    """An encoder that looks for bright spots in the lower left quarter of the photo and for nothing else."""

    num_features = 1

    def __init__(self):
        super().__init__()
        self.blur = nn.AvgPool2d(4)

    def forward(self, images):
        spots, corner = images.relu(), torch.zeros(images.shape[2:])
        corner[corner.shape[0] // 2 :, : corner.shape[1] // 2] = 1
        return 4 * self.blur(spots * corner).mean(dim=(1, 2, 3))[:, None]


@pytest.fixture(scope="module")
def corner():
    locator = make_locator()
    model = locator.bundle.model
    model.encoder = Corner()
    model.head = Head(1, len(locator.bundle.partition))
    with torch.no_grad():
        model.head.cells.weight.copy_(torch.tensor([[6.0], [-2.0], [-2.0], [-2.0]]))
        model.head.cells.bias.zero_()
    return locator


@pytest.fixture(scope="module")
def bright():
    """A photo of bright spots all over; blurred they are grey, and grey is nothing to the network."""
    spots = np.random.default_rng(0).integers(0, 2, (64, 64, 1)) * 255
    return encoded(np.repeat(spots, 3, axis=2).astype(np.uint8), "PNG")


@pytest.fixture(scope="module")
def photo():
    return encoded(picture(80, 60), quality=90)


def pixels_of(locator, photo):
    return locator.bundle.preprocess(photo)[None] / 255


@pytest.mark.parametrize(
    ("encoder", "side", "patch", "stride"),
    [
        pytest.param("test_resnet", 64, 32, 16, id="CNN"),
        pytest.param("test_resnet", 64, 26, 13, id="last squares stick out"),
        pytest.param("test_vit", 160, 64, 48, id="transformer"),
    ],
)
def test_occlusion_is_the_map_of_captum(photo, encoder, side, patch, stride):
    locator = make_locator(encoder, side)
    found = methods.occlusion(locator, photo, patch=patch, stride=stride)
    model = locator.bundle.model
    scaled, grey = ((x - model.mean) / model.std for x in (pixels_of(locator, photo), methods.grey_of(locator)))
    assert grey.abs().max() <= 0.501 / 255 / model.std.min()  # captum's default, zero, but for half a level
    oracle = captum.attr.Occlusion(lambda x: torch.softmax(model.head(model.encoder(x)).logits, 1)).attribute(
        scaled,
        sliding_window_shapes=(3, patch, patch),
        strides=(3, stride, stride),
        baselines=grey.expand_as(scaled),
        target=found.target,
    )
    assert np.ptp(found.heat) > 1e-4
    np.testing.assert_allclose(found.heat, oracle[0, 0], atol=1e-5)


def test_what_was_asked_until_ctrl_c_is_drawn_and_not_scored(photo, tmp_path):
    locator = make_locator()
    (tmp_path / "a.jpg").write_bytes(photo)

    def stop(done, total, note):
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"a-occlusion.png shows the \d+ of 225 squares that were asked about"):
        render.explain_photo(locator, tmp_path / "a.jpg", tmp_path, ["occlusion"], progress=stop)
    facts = json.loads((tmp_path / "a-occlusion.json").read_text())
    assert 39 <= facts["settings"]["squares"] < 225 == facts["settings"]["squares_in_all"]
    assert not (tmp_path / "a-scores.png").exists()


@pytest.mark.parametrize("chosen", [["occlusion"], ["saliency", "map"], ["gradcam", "integrated-gradients"]])
def test_the_cost_that_is_told_is_how_often_the_network_is_asked(photo, tmp_path, chosen):
    locator, asked = make_locator(), []
    (tmp_path / "a.jpg").write_bytes(photo)
    passes, _ = methods.cost(locator, photo, chosen)
    hook = locator.bundle.model.register_forward_hook(lambda _, batch, __: asked.append(len(batch[0])))
    render.explain_photo(locator, tmp_path / "a.jpg", tmp_path, chosen)
    hook.remove()
    assert passes == pytest.approx(sum(asked), abs=8)


@pytest.mark.parametrize("processor_has_bfloat16", [True, False])
def test_the_processor_does_not_decide_the_map(photo, monkeypatch, processor_has_bfloat16):
    arithmetic = []
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: processor_has_bfloat16)
    locator = make_locator("test_vit", 160)
    hook = locator.bundle.model.encoder.register_forward_hook(
        lambda *_: arithmetic.append(torch.is_autocast_enabled("cpu"))
    )
    found = methods.occlusion(locator, photo, patch=64, stride=48)
    methods.curves(locator, photo, found.heat)
    hook.remove()
    assert arithmetic
    assert not any(arithmetic)


def test_bfloat16_is_an_option_whose_map_is_near_that_of_float32(photo):
    exact = methods.occlusion(make_locator("test_vit", 160), photo, patch=64, stride=48)
    locator = make_locator("test_vit", 160)
    fast = Locator(locator.bundle, device="cpu", precision="bfloat16")
    found = methods.occlusion(fast, photo, patch=64, stride=48, target=exact.target)
    off = np.abs(found.heat - exact.heat).max() / np.ptp(exact.heat)
    assert 1e-5 < off < 0.3  # not the same arithmetic, and not another explanation


def test_saliency_is_the_gradient_of_the_loss_by_hand(photo):
    locator = make_locator()
    pixels = pixels_of(locator, photo).requires_grad_()
    nn.functional.cross_entropy(locator.bundle.model(pixels).logits, torch.tensor([2])).backward()
    found = methods.saliency(locator, photo, target=2)
    np.testing.assert_allclose(found.heat, pixels.grad[0].abs().amax(0), rtol=1e-4, atol=1e-9)


def test_the_parts_of_integrated_gradients_add_up_to_the_difference_from_grey(photo):
    locator = make_locator()
    model, pixels = locator.bundle.model, pixels_of(locator, photo)
    with torch.no_grad():
        answer, grey = (
            torch.softmax(model(x).logits, 1)[0, 1].item() for x in (pixels, methods.grey_of(locator).expand_as(pixels))
        )
    found = methods.integrated_gradients(locator, photo, target=1)
    assert abs(answer - grey) > 1e-3
    assert found.heat.sum() == pytest.approx(answer - grey, rel=0.02)


def test_gradcam_of_a_cnn_is_captums(photo):
    locator = make_locator()
    model = locator.bundle.model
    oracle = captum.attr.LayerGradCam(lambda x: model(x).logits, model.encoder.body.layer4)
    oracle = oracle.attribute(pixels_of(locator, photo), target=0)
    found = methods.gradcam(locator, photo, target=0)
    expected = nn.functional.interpolate(oracle.relu(), size=(64, 64), mode="bilinear")[0, 0].detach()
    np.testing.assert_allclose(found.heat, expected, atol=1e-6)
    assert found.heat.max() > 0


@pytest.mark.parametrize(
    ("encoder", "side", "sections", "grid"),
    [
        pytest.param("test_vit", 160, {}, [10, 10], id="class token"),
        pytest.param("test_vit", 160, {"pooling": "average"}, [10, 10], id="average of patches"),
        pytest.param("torchvision/shufflenet_v2_x0_5", 64, {}, [2, 2], id="torchvision"),
        pytest.param("test_convnext", 64, {}, [2, 2], id="ConvNeXt"),
        pytest.param("swin_tiny_patch4_window7_224", 224, {"options": {"depths": [1, 1], "embed_dim": 24}}, [28, 28],
                     id="channels last"),
    ],
)  # fmt: skip
def test_gradcam_finds_the_last_map_of_any_encoder_even_a_frozen_one(photo, encoder, side, sections, grid):
    locator = make_locator(encoder, side, **sections)
    locator.bundle.model.encoder.requires_grad_(False)
    found = methods.gradcam(locator, photo, target=0)
    assert found.settings["map"] == grid
    assert found.heat.shape == (side, side)
    assert found.heat.max() > 0


@pytest.mark.parametrize("method", HEATS)
def test_every_method_finds_the_corner_that_the_answer_hangs_on_and_beats_chance(corner, bright, method):
    found = methods.METHODS[method](corner, bright)
    inside = np.zeros((64, 64), bool)
    inside[32:, :32] = True
    assert found.target == 0
    assert found.heat[inside].mean() > 10 * abs(found.heat[~inside].mean())
    told, chance = methods.curves(corner, bright, found.heat), methods.random_curves(corner, bright)
    assert told.deletion_area < 0.8 * chance.deletion_area
    assert told.insertion_area > 1.05 * chance.insertion_area


def test_curves_start_and_end_at_the_photo_and_the_grey_frame(corner, bright):
    curves = methods.curves(corner, bright, np.ones((64, 64), np.float32))
    model, pixels = corner.bundle.model, pixels_of(corner, bright)
    with torch.no_grad():
        answer, grey = (
            torch.softmax(model(x).logits, 1)[0, 0].item() for x in (pixels, methods.grey_of(corner).expand_as(pixels))
        )
    assert curves.deletion[[0, -1]] == pytest.approx([answer, grey])
    assert curves.insertion[-1] == pytest.approx(answer)


def test_a_map_of_another_shape_is_refused(corner, bright):
    with pytest.raises(ValueError, match=r"shape \(64, 64\), found \(8, 8\)"):
        methods.curves(corner, bright, np.ones((8, 8), np.float32))


@pytest.mark.parametrize(("patch", "stride"), [(100, 8), (16, 17)])
def test_a_square_that_cannot_search_the_photo_is_refused(corner, bright, patch, stride):
    with pytest.raises(BadRecipeError, match="cannot search 64 x 64 pixels"):
        methods.occlusion(corner, bright, patch=patch, stride=stride)


def test_the_true_cell_is_asked_about_where_the_camera_knew_the_place(corner, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(picture(80, 60), exif=exif_of(-0.5, 0.5)))
    render.explain_photo(corner, tmp_path / "a.jpg", tmp_path, ["gradcam"], target="true", score=False)
    facts = json.loads((tmp_path / "a-gradcam.json").read_text())
    row = corner.bundle.partition.assign([-0.5], [0.5])[0]
    assert facts["truth"] == pytest.approx({"lat": -0.5, "lon": 0.5})
    assert facts["cell"] == facts["true_cell"] == corner.bundle.partition.names[row]
    assert facts["guess"]["error_km"] > 0


def test_a_truth_unknown_or_outside_every_cell_is_a_refusal(corner, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(picture(80, 60), "PNG"))
    for truth, sentence in ((None, "give --truth LAT,LON"), ((80.0, 0.0), "was taken in no cell")):
        with pytest.raises(BadPhotoError, match=sentence):
            render.explain_photo(corner, tmp_path / "a.png", tmp_path, ["saliency"], truth=truth, target="true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    make_locator("test_vit", 64, options={"img_size": 64}).bundle.write(folder / "bundle")
    make_locator("test_resnet").bundle.write(folder / "cnn")
    (folder / "tall.jpg").write_bytes(encoded(picture(60, 90), quality=90))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    return folder


def test_the_command_writes_a_picture_and_its_facts_for_every_method(folder, tmp_path):
    methods = [*HEATS, "patches", "map"]
    done = graticule(
        "explain", folder / "bundle", folder / "tall.jpg", "--out", tmp_path, "--truth", "0.5,0.5",
        "--patch", 24, "--stride", 20, *(part for method in methods for part in ("--method", method)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for method in methods:
        facts = json.loads((tmp_path / f"tall-{method}.json").read_text())
        assert facts["true_cell"] is not None
        assert 0 < facts["probability"] < 1
        assert Image.open(tmp_path / f"tall-{method}.png").width == 1050
        if method in HEATS:
            assert facts["scores"].keys() == {method, "random"}
        if method == "patches":
            assert (facts["rows"], facts["columns"]) == (4, 4)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(f"tall-{m}.png" for m in [*methods, "scores"])


def test_a_photo_that_cannot_be_read_does_not_keep_the_others_from_being_explained(folder, tmp_path):
    done = graticule(
        "explain", folder / "bundle", folder / "broken.jpg", folder / "tall.jpg", "--out", tmp_path, "--method", "map"
    )
    assert done.returncode == 1
    assert "1 of 2 photos could not be explained" in done.stderr
    assert (tmp_path / "tall-map.png").exists()


@pytest.mark.parametrize(
    ("bundle", "options", "sentence"),
    [
        pytest.param("cnn", ["--method", "patches"], "does not cut a photo into patches", id="no patches"),
        pytest.param("bundle", ["--truth", "here"], "--truth takes LAT,LON in degrees", id="no numbers"),
        pytest.param("bundle", ["--truth", "91,0"], "off the globe", id="off the globe"),
        pytest.param("bundle", ["--patch", "8", "--stride", "9"], "the step is at most the square", id="gaps"),
        pytest.param("nothing", [], "is no bundle", id="no bundle"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(folder, tmp_path, bundle, options, sentence):
    done = graticule("explain", folder / bundle, folder / "tall.jpg", "--out", tmp_path, "--no-score", *options)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_one_truth_is_not_for_two_photos(folder, tmp_path):
    both = [folder / "tall.jpg", folder / "broken.jpg"]
    done = graticule("explain", folder / "bundle", *both, "--out", tmp_path, "--truth", "0,0")
    assert done.returncode == 1
    assert "explain them one by one" in done.stderr


def test_photos_that_share_a_name_keep_their_own_files(tmp_path):
    assert render.names_of([tmp_path / "a/x.jpg", tmp_path / "b/x.png", tmp_path / "y.jpg"]) == ["x", "x-2", "y"]
