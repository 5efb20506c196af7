"""The feature map of a CNN as the tokens of a transformer."""

import pytest
import timm
import torch
from torch.nn import functional

from graticule.config import parse_recipe
from graticule.errors import BadRecipeError
from graticule.model.hybrid import Hybrid, build_hybrid


def hybrid(cnn="test_resnet", vit="test_vit", *, weights=("none", "none"), grid=3, position="none"):
    torch.manual_seed(0)
    return build_hybrid(cnn, vit, *weights, grid=grid, position=position).eval()


def test_it_is_report_bs_network_written_with_timms_own_parts():
    encoder = hybrid(grid=14)
    maps = timm.create_model("test_resnet", features_only=True).eval()
    maps.load_state_dict(encoder.body.cnn.state_dict())
    vit = timm.create_model("test_vit", num_classes=0).eval()
    vit.blocks.load_state_dict(encoder.body.vit.blocks.state_dict())
    images = torch.rand(2, 3, 96, 128)
    local = functional.adaptive_avg_pool2d(maps(images)[-1], (14, 14))
    tokens = encoder.body.proj(local.flatten(2).transpose(1, 2))
    assert tokens.shape == (2, 196, 64)
    torch.testing.assert_close(encoder(images), vit.blocks(tokens).mean(dim=1))
    assert encoder.num_features == vit.embed_dim


@pytest.mark.parametrize(("position", "knows"), [("none", False), ("learned", True)])
def test_only_learned_positions_tell_the_tokens_apart(position, knows):
    body = hybrid(position=position).body
    turned = hybrid(position=position).body
    turned.load_state_dict(body.state_dict())
    forward = body.cnn.forward_features
    turned.cnn.forward_features = lambda images: forward(images).flip(3)  # the map mirrored, value by value
    images = torch.rand(2, 3, 96, 96)
    same = torch.allclose(body(images), turned(images), atol=1e-5)
    assert same != knows


def test_the_transformers_own_positions_are_used_at_its_own_grid():
    cnn, vit = timm.create_model("test_resnet", num_classes=0), timm.create_model("test_vit", num_classes=0)
    own = vit.pos_embed[:, vit.num_prefix_tokens :].detach().clone()
    side = vit.patch_embed.grid_size[0]
    torch.testing.assert_close(Hybrid(cnn, vit, side, "learned").pos_embed.detach(), own)


def test_both_parts_take_local_weights(tmp_path):
    parts = {"cnn": "test_resnet", "vit": "test_vit"}
    donors = {part: timm.create_model(name, num_classes=7) for part, name in parts.items()}
    for part, donor in donors.items():
        torch.save(donor.state_dict(), tmp_path / f"{part}.pth")
    body = hybrid(weights=(str(tmp_path / "cnn.pth"), str(tmp_path / "vit.pth"))).body
    for found, donor in ((body.cnn.layer4, donors["cnn"].layer4), (body.vit.blocks, donors["vit"].blocks)):
        for name, tensor in found.state_dict().items():
            torch.testing.assert_close(tensor, donor.state_dict()[name])


@pytest.mark.parametrize(
    ("cnn", "vit", "sentence"),
    [
        pytest.param("test_vit", "test_vit", "gives no feature map", id="a transformer below"),
        pytest.param("torchvision/resnet18", "test_vit", "gives no feature map", id="torchvision below"),
        pytest.param("test_resnet", "test_convnext", "is no plain vision transformer", id="a CNN above"),
    ],
)
def test_parts_that_do_not_join_are_refused(cnn, vit, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        hybrid(cnn, vit)


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        pytest.param({"frozen": True}, r"freeze \[cnn, vit\] in a stage", id="frozen projection"),
        pytest.param({"pooling": "average"}, "tokens are averaged", id="pooling"),
        pytest.param({"weights": "w.pth"}, "say those of the other in then.weights", id="weights of one part"),
    ],
)
def test_settings_that_a_hybrid_has_no_use_for_are_refused(encoder, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        parse_recipe({"encoder": {"then": {}, **encoder}})
