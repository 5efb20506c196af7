"""Photos compared by second moments of local features, along whitened principal axes."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from sklearn.decomposition import PCA

from graticule.belief import confidence
from graticule.belief.confidence import MOST_AXES, Known, principal_axes
from graticule.errors import BadRecipeError
from graticule.model.encoders import build_encoder, second_moments
from graticule.model.heads import Head


@pytest.mark.parametrize("root", ["matrix", "elements"])
def test_second_moments_are_the_rooted_mean_of_outer_products_of_directions(root):
    local = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(0))
    found = second_moments(local, root)
    for photo, row in zip(local.numpy(), found.numpy(), strict=True):
        unit = photo / np.linalg.norm(photo, axis=0)
        mean = np.mean([np.outer(place, place) for place in unit.T], axis=0)
        rooted = sqrtm(mean).real if root == "matrix" else np.sign(mean) * np.sqrt(np.abs(mean))
        wanted = np.array([rooted[i, j] for i in range(5) for j in range(i, 5)])
        assert row == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-5 if root == "elements" else 2e-3)


def test_the_root_of_a_black_photo_and_of_fewer_places_than_channels_is_finite():
    for local in (torch.zeros(1, 6, 9), torch.ones(1, 6, 9), torch.randn(1, 60, 4)):
        assert second_moments(local).isfinite().all()


def test_where_in_a_photo_something_is_does_not_matter_but_what_stands_together_does():
    local = torch.randn(1, 6, 20, generator=torch.Generator().manual_seed(1))
    moved = local[:, :, torch.randperm(20, generator=torch.Generator().manual_seed(2))]
    assert torch.allclose(second_moments(local), second_moments(moved), atol=1e-6)
    mixed = torch.stack([channel[torch.randperm(20, generator=torch.Generator().manual_seed(i))]
                         for i, channel in enumerate(local[0])])[None]  # fmt: skip
    assert mixed.mean(dim=2) == pytest.approx(local.mean(dim=2), abs=1e-6)  # to an average they are the same photo
    assert not torch.allclose(second_moments(local), second_moments(mixed), atol=0.05)


def test_heads_do_not_read_second_moments_and_photos_are_compared_by_nothing_else():
    plain = build_encoder("test_efficientnet", "none", inner=["blocks.1"])
    encoder = build_encoder("test_efficientnet", "none", inner=["blocks.1"], second_order=["blocks.1"])
    channels = (plain.num_features - plain.body.num_features) // 2
    assert encoder.num_pooled == plain.num_features
    assert encoder.num_features == plain.num_features + channels * (channels + 1) // 2
    encoder.body.load_state_dict(plain.body.state_dict())
    images = torch.rand(2, 3, 64, 48)
    with torch.inference_mode():
        features = encoder.eval()(images)
        assert torch.equal(features[:, : plain.num_features], plain.eval()(images))
        assert encoder.views == (channels * (channels + 1) // 2,)
        assert plain.views == (plain.num_features,)
        head = Head(encoder.num_pooled, 4)
        other = features.clone()
        other[:, encoder.num_pooled :] = 7
        assert torch.equal(head(features).logits, head(other).logits)


def test_halves_of_a_photo_have_moments_of_their_own():
    whole = build_encoder("test_efficientnet", "none", second_order=["blocks.1"]).eval()
    both = build_encoder("test_efficientnet", "none", second_order=["blocks.1"], second_order_halves=True).eval()
    both.body.load_state_dict(whole.body.state_dict())
    seen = {}
    both.body.blocks[1].register_forward_hook(lambda module, given, output: seen.update(map=output))
    images = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        _, photo, upper, lower = both(images).split([both.num_pooled, *both.views], dim=1)
        assert torch.allclose(photo, whole(images)[:, whole.num_pooled :], atol=1e-6)
    rows = seen["map"].shape[2] // 2
    for half, local in ((upper, seen["map"][:, :, :rows]), (lower, seen["map"][:, :, rows:])):
        assert torch.allclose(half, second_moments(local.flatten(2)), atol=1e-6)


def test_views_of_a_photo_are_compared_each_along_its_own_axes():
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(38, 39, 60), rng.uniform(-77, -76, 60)
    rows = rng.normal(size=(60, 70)).astype(np.float32)
    asked = rng.normal(size=(3, 70)).astype(np.float32)
    together = Known.of(lat, lon, rows, 0, views=(40, 30))
    alone = [Known.of(lat, lon, rows[:, part], 0).compare(asked[:, part]) for part in (np.s_[:40], np.s_[40:])]
    cosines, nearest = together.compare(asked)
    assert cosines == pytest.approx((alone[0][0] + alone[1][0]) / 2, abs=0.01)  # axes are kept as float16
    assert nearest == pytest.approx(
        np.linalg.norm((asked[:, None] - rows) / rows.std(axis=0), axis=2).min(axis=1), rel=0.02
    )


def test_what_stands_before_the_views_tells_how_strange_a_photo_is_and_nothing_else():
    rng = np.random.default_rng(1)
    lat, lon = rng.uniform(38, 39, 60), rng.uniform(-77, -76, 60)
    rows = rng.normal(size=(60, 70)).astype(np.float32)
    known, alone = Known.of(lat, lon, rows, 0, views=(30,)), Known.of(lat, lon, rows[:, 40:], 0)
    asked = rows[:2].copy()
    asked[0, :40] += 9
    cosines, nearest = known.compare(asked)
    assert cosines == pytest.approx(alone.compare(asked[:, 40:])[0], abs=0.01)
    assert nearest[0] > 10 * nearest[1]
    asked[1, 40:] += 9
    assert known.compare(asked)[1] == pytest.approx(nearest, abs=1e-3)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(BadRecipeError, match=r"no module 'blocks.99' for encoder.second_order"):
        build_encoder("test_efficientnet", "none", second_order=["blocks.99"])


@pytest.mark.parametrize(("photos", "length"), [(40, 90), (300, 12), (900, 700)])
def test_principal_axes_are_those_of_scikit_learn(photos, length):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(photos, length)) @ rng.normal(size=(length, length)) / np.sqrt(length)
    count = min(MOST_AXES, photos // 2, length)
    axes, spread = principal_axes(rows.astype(np.float32), count)
    theirs = PCA(count, svd_solver="full").fit(rows)
    assert axes.shape == (length, count)
    assert spread == pytest.approx(np.sqrt(theirs.explained_variance_ * (photos - 1) / photos), rel=1e-3)
    strong = spread > spread[0] / 50
    assert np.abs((axes * theirs.components_.T).sum(axis=0))[strong] == pytest.approx(1, abs=1e-3)  # up to the sign


def test_what_lies_along_no_axis_makes_a_photo_strange():
    rng = np.random.default_rng(0)
    flat = np.zeros((60, 50), np.float32)
    flat[:, :5] = rng.normal(size=(60, 5))
    flat += rng.normal(size=flat.shape).astype(np.float32) * 1e-3
    known = Known.of(rng.uniform(38, 39, 60), rng.uniform(-77, -76, 60), flat, 0)
    usual, strange = flat[:1].copy(), flat[:1].copy()
    strange[0, 40] += 1
    assert known.compare(strange)[1] > 10 * known.compare(usual)[1]


def test_axes_are_found_from_photos_all_over_a_table_whose_drives_come_one_after_another(monkeypatch):
    monkeypatch.setattr(confidence, "MOST_TURNED", 60)
    rng = np.random.default_rng(0)
    first, second = np.zeros((200, 40), np.float32), np.zeros((200, 40), np.float32)
    first[:, :20], second[:, 20:] = rng.normal(size=(200, 20)), rng.normal(size=(200, 20))
    both = np.vstack([first, second])
    known = Known.of(rng.uniform(38, 39, 400), rng.uniform(-77, -76, 400), both, 0)
    along_axes = np.square(both / both.std(axis=0) @ known.axes).sum(axis=1)
    assert along_axes[200:].mean() == pytest.approx(along_axes[:200].mean(), rel=0.2)


def test_an_encoder_holds_nothing_of_a_pass_that_is_over():
    encoder = build_encoder("test_efficientnet", "none", inner=["blocks.1"], second_order=["blocks.2"])
    encoder(torch.rand(2, 3, 64, 64))
    copy.deepcopy(encoder)  # which refuses tensors that hang in a graph
    assert not encoder._seen


def test_threads_that_ask_one_network_at_once_get_each_its_own_features():
    encoder = build_encoder("test_efficientnet", "none", inner=["blocks.1"], second_order=["blocks.1"]).eval()
    photos = torch.rand(2, 1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = [encoder(photo) for photo in photos]
    both = threading.Barrier(2)

    def wait(*_):
        both.wait(60)  # until both have passed blocks.1

    encoder.body.blocks[2].register_forward_pre_hook(wait)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(torch.no_grad()(encoder), photos))
    for one, expected in zip(found, alone, strict=True):
        assert torch.allclose(one, expected, atol=1e-6)
