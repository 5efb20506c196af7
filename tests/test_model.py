import socket

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch.nn import functional

from graticule.config import parse_recipe
from graticule.errors import BadRecipeError
from graticule.geo.sphere import great_circle_km, unit_vectors
from graticule.model.encoders import build_encoder
from graticule.model.geolocator import build_geolocator
from graticule.model.heads import Head
from graticule.model.losses import cell_loss, distance_targets
from graticule.photos.images import decode


@pytest.mark.parametrize(
    ("name", "pooling", "width"),
    [
        pytest.param("test_resnet", "own", 96, id="timm CNN"),
        pytest.param("test_vit", "own", 64, id="timm transformer"),
        pytest.param("test_resnet", "average+gem", 192, id="timm CNN, two poolings"),
        pytest.param("test_vit", "average", 64, id="timm transformer, average of its patches"),
        pytest.param("shufflenet_v2_x0_5", "own", 1024, id="torchvision"),
    ],
)
def test_an_encoder_of_either_library_gives_one_feature_a_photo(name, pooling, width):
    encoder = build_encoder(name, "none", pooling).eval()
    assert encoder.num_features == width
    assert encoder(torch.zeros(2, 3, 160, 160)).shape == (2, width)


def test_own_pooling_gives_what_timm_gives():
    torch.manual_seed(0)
    encoder = build_encoder("test_resnet", "none").eval()
    oracle = timm.create_model("test_resnet", num_classes=0).eval()
    oracle.load_state_dict(encoder.body.state_dict())
    x = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(encoder(x), oracle(x))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param({"name": "vit_b16"}, "no encoder is called 'vit_b16'; near ones: vit_b_16", id="near name"),
        pytest.param({"name": "qqqq"}, r"timm.list_models\(\) lists the names", id="no near name"),
        pytest.param({"name": "test_resnet", "options": {"wings": 2}}, "does not take these options", id="option"),
        pytest.param(
            {"name": "torchvision/resnet18", "pooling": "average"},
            "is for timm encoders",
            id="torchvision pooling",
        ),
        pytest.param({"name": "test_resnet", "weights": "nowhere.pth"}, "no weights at", id="no file"),
    ],
)
def test_an_encoder_that_cannot_be_is_refused_with_a_sentence(arguments, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        build_encoder(**({"weights": "none"} | arguments))


def test_local_weights_are_loaded_whatever_their_classifier(tmp_path):
    torch.manual_seed(1)
    donor = timm.create_model("test_resnet", num_classes=17)
    torch.save(donor.state_dict(), tmp_path / "w.pth")
    encoder = build_encoder("test_resnet", str(tmp_path / "w.pth"))
    for name, tensor in encoder.body.state_dict().items():
        torch.testing.assert_close(tensor, donor.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "size", "interpolation"),
    [("efficientnet_b1", (240, 240), "bilinear"), ("shufflenet_v2_x0_5", (224, 224), "bilinear"),
     ("efficientnet_b0", (224, 224), "bicubic")],
)  # fmt: skip
def test_torchvisions_weights_say_the_size_and_the_interpolation(tmp_path, name, size, interpolation):
    file = tmp_path / "weights.pth"
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), file)
    found = build_encoder(f"torchvision/{name}", str(file))
    assert (found.input_size, found.interpolation) == (size, interpolation)
    without = build_encoder(f"torchvision/{name}", "none")  # of no weights there is nothing to say
    assert (without.input_size, without.interpolation) == ((224, 224), "bilinear")


def test_weights_of_another_encoder_are_refused(tmp_path):
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(BadRecipeError, match="does not fit this encoder"):
        build_encoder("test_resnet", str(tmp_path / "w.pth"))


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"not weights")
    with pytest.raises(BadRecipeError, match="not a state dict"):
        build_encoder("test_resnet", str(tmp_path / "w.pth"))


def test_a_frozen_encoder_has_nothing_to_train_and_its_head_has():
    recipe = parse_recipe({"encoder": {"name": "test_resnet", "weights": "none"}})
    frozen = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"frozen": True})})
    model = build_geolocator(frozen, 5)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    assert all(p.requires_grad for p in model.head.parameters())


def test_the_same_seed_gives_the_same_network():
    recipe = parse_recipe({"seed": 7, "encoder": {"name": "test_resnet", "weights": "none"}})
    one, two = (build_geolocator(recipe, 5).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_bytes_and_floats_of_one_image_give_the_same_logits():
    model = build_geolocator(parse_recipe({"encoder": {"name": "test_resnet", "weights": "none"}}), 5).eval()
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(model(image).logits, model(image / 255).logits)


def test_a_standardised_head_sees_features_of_unit_spread():
    head = Head(3, 2)
    features = torch.randn(500, 3) * torch.tensor([1.0, 50.0, 0.0]) + 9
    head.standardise(features)
    seen = (features - head.center) * head.scale
    torch.testing.assert_close(seen.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(dim=0, correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-3, rtol=0)


def vectors(lat, lon):
    return torch.from_numpy(unit_vectors(lat, lon)).float()


def test_distance_targets_are_pigeons_formula_in_float64():
    rng = np.random.default_rng(0)
    lat, lon = 38.9 + rng.normal(0, 0.02, 30), -77 + rng.normal(0, 0.02, 30)
    km = great_circle_km(lat[:5, None], lon[:5, None], lat, lon)
    expected = np.exp(-(km - km.min(axis=1, keepdims=True)) / 0.4)
    expected /= expected.sum(axis=1, keepdims=True)
    found = distance_targets(vectors(lat[:5], lon[:5]), vectors(lat, lon), 0.4)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3)


@pytest.mark.parametrize(
    ("kind", "smoothing"), [("one_cell", 0.0), ("smoothed", 0.1)], ids=["one cell", "label smoothing"]
)
def test_the_loss_is_torchs_cross_entropy_over_photos_that_have_a_cell(kind, smoothing):
    logits, rows = torch.randn(6, 4), torch.tensor([0, 1, -1, 3, 2, -1])
    spots = vectors(np.zeros(6), np.zeros(6))
    found = cell_loss(logits, rows, spots, vectors(np.zeros(4), np.arange(4)), kind=kind, smoothing=smoothing, tau_km=1)
    expected = torch.nn.functional.cross_entropy(logits[rows >= 0], rows[rows >= 0], label_smoothing=smoothing)
    torch.testing.assert_close(found, expected)


def test_the_distance_loss_prefers_the_cell_next_door():
    cells = vectors([0, 0, 0], [0.0, 0.01, 1.0])
    spot = vectors([0], [0.0])
    near, far = torch.tensor([[-9.0, 9.0, -9.0]]), torch.tensor([[-9.0, -9.0, 9.0]])
    arguments = {"kind": "distance", "smoothing": 0.0, "tau_km": 2.0}
    rows = torch.tensor([0])
    assert cell_loss(near, rows, spot, cells, **arguments) < cell_loss(far, rows, spot, cells, **arguments)


def test_a_transformers_own_file_is_read_at_another_image_size_as_timm_reads_it(tmp_path):
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    found = build_encoder("test_vit", str(path), options={"img_size": [96, 128]})
    oracle = timm.create_model(
        "test_vit", pretrained=True, num_classes=0, img_size=[96, 128], pretrained_cfg_overlay={"file": str(path)}
    )
    assert all(torch.equal(tensor, found.body.state_dict()[name]) for name, tensor in oracle.state_dict().items())
    assert found.body.pos_embed.shape != timm.create_model("test_vit").pos_embed.shape


@pytest.mark.parametrize("way", ["a hub's folder", "a checkpoint of a training run", "wrapped for several cards"])
def test_weights_are_read_from_whatever_timm_reads_them_from(tmp_path, way):
    donor = timm.create_model("test_vit", num_classes=10).state_dict()
    path = tmp_path / "checkpoint.pth"
    if way == "a hub's folder":
        path = tmp_path
        save_file(donor, path / "model.safetensors")
    elif way == "wrapped for several cards":
        torch.save({f"module.{name}": tensor for name, tensor in donor.items()}, path)
    else:
        torch.save({"epoch": 3, "state_dict": donor}, path)
    found = build_encoder("test_vit", str(path)).body.state_dict()
    assert all(torch.equal(tensor, donor[name]) for name, tensor in found.items())


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(BadRecipeError, match=r"holds no weights \(model.safetensors, pytorch_model.bin\)"):
        build_encoder("test_vit", str(tmp_path))


def test_the_real_dinov2_is_read_at_a_quarter_of_its_size(real_data):
    path = real_data / "weights" / "vit_small_patch14_dinov2.safetensors"
    encoder = build_encoder("vit_small_patch14_dinov2", str(path), options={"img_size": [252, 336]})
    cat = torch.from_numpy(decode((real_data / "weights" / "cat.bmp").read_bytes()).copy()).permute(2, 0, 1)[None] / 255
    parrot = decode((real_data / "weights" / "parrot.jpg").read_bytes())
    parrot = torch.from_numpy(parrot.copy()).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))

    def features(photo):
        with torch.inference_mode():
            return encoder.eval()(
                (functional.interpolate(photo, (252, 336), antialias=True, mode="bilinear") - mean) / std
            )

    crop = cat[..., 10:, 10:]
    alike, unlike = (functional.cosine_similarity(features(cat), features(other)).item() for other in (crop, parrot))
    assert alike > 0.9 > 0.8 > unlike  # 0.98 and 0.60 at full size, by the file's own note


def test_without_a_network_the_hub_is_asked_once_and_the_way_out_is_named(monkeypatch, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = "http://{}:{}".format(*closed.getsockname())  # bound, and nobody listens
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm tries for a minute"))
        with pytest.raises(BadRecipeError, match="mobilenetv2_100 could not be fetched .*--set encoder.weights=FILE"):
            build_encoder("mobilenetv2_100", "pretrained")
