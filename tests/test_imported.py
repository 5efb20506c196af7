"""Heads and poolings of public models, each against the formula that it is made of."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import nn

from graticule.config import parse_recipe
from graticule.errors import BadRecipeError
from graticule.geo.sphere import from_vectors
from graticule.model.imported import MatchingHead, NoHead, OffsetHead
from graticule.model.salad import Salad


def filled(module, seed=0):
    """The same module with random weights and buffers."""
    generator = torch.Generator().manual_seed(seed)
    for value in [*module.parameters(), *module.buffers()]:
        if value.is_floating_point():
            value.data = torch.randn(value.shape, generator=generator, dtype=value.dtype)
    return module.eval()


@torch.inference_mode()
def test_a_photo_is_matched_with_places_by_the_cosine():
    head = filled(MatchingHead(6, 5, (8, 4)))
    head.scale.fill_(10)
    head.places.copy_(nn.functional.normalize(head.places, dim=1))
    photos = torch.randn(3, 6)
    logits = head(photos).logits
    expected = 10 * nn.functional.cosine_similarity(head.layers(photos)[:, None], head.places[None], dim=2)
    torch.testing.assert_close(logits, expected)


@torch.inference_mode()
def test_a_place_is_as_likely_as_its_country_times_itself_among_those_of_its_country():
    head = filled(MatchingHead(4, 5, (4,), above=2))
    head.parent.copy_(torch.tensor([0, 0, 1, 1, 1]))
    photos = torch.randn(3, 4)
    found = head(photos).logits.numpy()
    photo = (nn.functional.normalize(head.layers(photos), dim=1) * head.scale).numpy()
    countries, places = photo @ head.above.numpy().T, photo @ head.places.numpy().T
    first = countries - logsumexp(countries, axis=1, keepdims=True)
    for country, its in ((0, [0, 1]), (1, [2, 3, 4])):
        within = places[:, its] - logsumexp(places[:, its], axis=1, keepdims=True)
        np.testing.assert_allclose(found[:, its], first[:, [country]] + within, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)


@torch.inference_mode()
def test_an_offset_leads_from_the_mean_of_the_likeliest_box_at_most_a_fifth_beyond_its_edge():
    head = filled(OffsetHead(8, 3, (8,)))
    head.middle.copy_(torch.tensor([[0.0, 0.0], [10.0, 20.0], [-30.0, 179.0]]))
    head.up.copy_(torch.tensor([[1.0, 2.0]] * 3))
    head.down.copy_(torch.tensor([[3.0, 4.0]] * 3))
    found = head(torch.randn(200, 8))
    lat, lon = from_vectors(found.position.numpy())
    best = found.logits.argmax(dim=1).numpy()
    off = np.stack([lat, lon], axis=1) - head.middle.numpy()[best]
    edge = 1.2 * np.where(off > 0, [1.0, 2.0], [3.0, 4.0])
    assert (np.abs(off) <= edge + 1e-9).all()
    assert (np.abs(off) > 0.5 * edge).any()


@torch.inference_mode()
def test_each_patch_is_shared_out_whole_and_a_descriptor_is_of_unit_length():
    salad = filled(Salad(16))
    score = torch.randn(2, 64, 100)
    patches, token = torch.randn(2, 16, 100), torch.randn(2, 16)
    full = salad.all_shares(score)
    torch.testing.assert_close(full.sum(dim=1), torch.ones(2, 100))
    assert full.shape == (2, 65, 100)
    torch.testing.assert_close(salad(patches, token).norm(dim=1), torch.ones(2))
    one = salad(patches[:1], token[:1])
    torch.testing.assert_close(salad(patches, token)[:1], one)


def test_a_head_without_an_answer_has_no_cells():
    assert NoHead()(torch.zeros(2, 3)) == (None, None)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"kind": "cells", "widths": [3]}, "widths goes with the imported kinds"),
        ({"kind": "matching"}, "widths goes with the imported kinds"),
        ({"kind": "offsets", "widths": [3], "above": 2}, "above and refine go with kind: matching"),
    ],
)
def test_layers_go_with_the_heads_that_have_them(head, said):
    with pytest.raises(BadRecipeError, match=said):
        parse_recipe({"head": head})
