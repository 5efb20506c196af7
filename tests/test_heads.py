"""Positions instead of cells, or beside them: from the loss to the evaluation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from towns import QUARTERS, make_town, photo, tiny_recipe

from graticule.config import parse_recipe
from graticule.errors import BadRecipeError
from graticule.evaluation.evaluate import evaluate
from graticule.geo import s2
from graticule.geo.sphere import from_vectors, great_circle_km, unit_vectors
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.model.heads import Frame, Head, HierarchicalSoftmax, Output
from graticule.model.losses import position_loss
from graticule.partition.cells import CellPartition
from graticule.partition.tree import Tree
from graticule.training.fit import fit
from graticule.training.train import train

ACROSS = [(-16.51, 179.99), (-16.51, -179.99), (-16.49, 179.99), (-16.49, -179.99)]  # Taveuni, Fiji
PLACES = {"town": QUARTERS, "across 180 degrees": ACROSS, "pole": [(89.99, lon) for lon in (0, 90, 180, -90)]}


def vectors(places):
    return torch.from_numpy(unit_vectors(*np.array(places, float).T))


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.mark.parametrize("coordinates", ["plane", "sphere"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
def test_coordinates_and_places_are_each_others_inverse(coordinates, places):
    frame = Frame(coordinates)
    frame.fit(vectors(places))
    lat, lon = from_vectors(frame.places(frame.normalise(vectors(places))).numpy())
    assert great_circle_km(lat, lon, *np.array(places, float).T).max() < 1e-6


def test_coordinates_are_normalised_by_the_rows_they_were_settled_on():
    rng = np.random.default_rng(0)
    places = vectors(np.array([38.9, -77.0]) + rng.normal(0, (0.01, 0.03), (500, 2)))
    frame = Frame("plane")
    frame.fit(places)
    found = frame.normalise(places)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.std(dim=0, correction=0), torch.ones(2, dtype=torch.float64))


def test_the_plane_measures_a_town_in_kilometres():
    frame = Frame("plane")
    frame.fit(vectors(QUARTERS))
    km = (frame.normalise(vectors(QUARTERS)) * frame.std * 6371.0088).numpy()
    lat, lon = np.array(QUARTERS).T
    straight = np.linalg.norm(km[0] - km, axis=1)
    np.testing.assert_allclose(straight, great_circle_km(lat[0], lon[0], lat, lon), atol=1e-4)


@pytest.mark.parametrize("coordinates", ["plane", "sphere"])
def test_the_loss_does_not_mind_the_date_line(coordinates):
    def cost(guess, truth, places):
        frame = Frame(coordinates)
        frame.fit(vectors(places))
        return float(position_loss(vectors([guess]), vectors([truth]), frame))

    away = [(lat, lon % 360 - 180) for lat, lon in ACROSS]  # the same town on the meridian of Greenwich
    across = cost((-16.5, 179.9), (-16.5, -179.9), ACROSS)
    assert across == pytest.approx(cost((-16.5, -0.1), (-16.5, 0.1), away), rel=1e-5)


def test_the_loss_of_a_position_is_torchs_mean_squared_error_of_normalised_coordinates():
    frame = Frame("plane")
    frame.fit(vectors(QUARTERS))
    guess = torch.randn(4, 2, dtype=torch.float64)
    expected = torch.nn.functional.mse_loss(guess, frame.normalise(vectors(QUARTERS)))
    found = position_loss(frame.places(guess), vectors(QUARTERS), frame)
    torch.testing.assert_close(found.double(), expected)


@pytest.mark.parametrize("kind", ["position", "both"])
def test_a_loss_on_the_position_moves_every_layer_behind_it_and_no_cell(kind):
    head = Head(6, 4, hidden=5, kind=kind, coordinates="sphere")
    head.frame.fit(vectors(ACROSS))
    said = head(torch.randn(4, 6))
    position_loss(said.position, vectors(ACROSS), head.frame).backward()
    moving = {name.split(".")[0] for name, p in head.named_parameters() if p.grad is not None and p.grad.any()}
    assert moving == {"layers", "position"}
    assert (said.logits is None) == (kind == "position")


def test_the_two_losses_add_up_with_alpha(town):
    """One step at alpha 10 costs the cells' loss and ten times the position's."""
    said = {}
    for alpha in (1, 10):
        recipe = tiny_recipe(head={"kind": "both"}, target={"alpha": alpha}, train={"epochs": 1, "batch_size": 96})
        said[alpha] = fit(recipe, town).facts["epochs"]["train_loss"]
    cells_only = fit(tiny_recipe(train={"epochs": 1, "batch_size": 96}), town).facts["epochs"]["train_loss"]
    # The weights of the first step differ between the heads by their random start: compare what alpha adds.
    position = (said[10] - said[1]) / 9
    assert 0.1 < position < 3
    assert said[1] - position == pytest.approx(cells_only, abs=0.5)


@pytest.mark.parametrize(
    "coordinates", ["auto", "sphere"], ids=["plane across 180 degrees", "sphere across 180 degrees"]
)
def test_a_position_is_learned(tmp_path, coordinates):
    there = make_town(tmp_path, quarters=ACROSS)
    recipe = tiny_recipe(head={"kind": "position", "coordinates": coordinates}, train={"epochs": 10})
    bundle = fit(recipe, there, there)
    assert bundle.recipe.head.coordinates == ("plane" if coordinates == "auto" else coordinates)
    fix = Locator(bundle).locate(photo(1, np.random.default_rng(9)))
    assert great_circle_km(fix.lat, fix.lon, *ACROSS[1]) < 0.7  # the quarters lie over 2 km apart
    assert fix.cells == ()
    assert fix.expected_error_km == pytest.approx(bundle.facts["epochs"]["val_regression_mean_km"])


def test_a_regressed_answer_without_validation_knows_no_error(town):
    bundle = fit(tiny_recipe(head={"kind": "position"}, train={"epochs": 1}), town)
    fix = Locator(bundle).locate(town.paths()[0])
    assert fix.expected_error_km is None
    assert fix.to_json()["expected_error_km"] is None


def test_an_evaluation_of_positions_says_nothing_of_cells(town, tmp_path):
    bundle = train(tiny_recipe(head={"kind": "position"}, train={"epochs": 2}), town, tmp_path / "run")
    found = evaluate(bundle, town, split="all", allow_leak=True)
    for name in ("top1", "top5", "cross_entropy", "center_distance_km"):
        assert found.metrics[name] is None
    assert found.metrics["regression_mean_km"] == pytest.approx(found.metrics["mean_km"])
    np.testing.assert_allclose(found.rows["regression_error_km"], found.rows["error_km"])
    assert found.metrics["expected_error_km"] == pytest.approx(bundle.facts["regression_error_km"])


def test_an_evaluation_of_both_has_both_distances(town, tmp_path):
    recipe = tiny_recipe(head={"kind": "both"}, target={"alpha": 5}, train={"epochs": 4}, answer="center")
    bundle = train(recipe, town, tmp_path / "run")
    metrics = evaluate(bundle, town, split="all", allow_leak=True).metrics
    other = replace(bundle, recipe=bundle.recipe.model_copy(update={"answer": "regressed"}))
    regressed = evaluate(other, town, split="all", allow_leak=True).metrics
    assert metrics["center_distance_km"] is not None
    assert metrics["regression_mean_km"] == pytest.approx(regressed["mean_km"])
    assert metrics["mean_km"] != regressed["mean_km"]


def test_a_head_on_bfloat16_still_tells_places_apart_by_centimetres():
    head = Head(6, 4, kind="position", coordinates="plane")
    head.frame.fit(vectors(QUARTERS))
    features = torch.randn(3, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = head(features)
    lat, lon = from_vectors(rough.position.detach().numpy())
    exact = from_vectors(head(features).position.detach().numpy())
    assert isinstance(rough, Output)
    assert great_circle_km(lat, lon, *exact).max() < 1e-5


def cells_of(keep):
    lat, lon = np.random.default_rng(0).normal((37.8, -122.4), 0.02, (400, 2)).T
    return CellPartition.fit(lat, lon, split_above=40, drop_below=4, max_level=24, keep=keep).cells


@pytest.mark.parametrize("keep", ["planet", "nested"])
def test_what_lies_below_a_node_is_what_lies_in_a_cell_of_s2(keep):
    cells = cells_of(keep)
    tree = Tree.of(cells)
    below = [set(np.flatnonzero((tree.path == node).any(axis=1))) for node in range(tree.nodes)]
    for rows in map(sorted, below):
        within = next(each for cell in s2_above(cells[rows[0]]) if (each := inside(cells, cell))[rows].all())
        assert len(rows) == 1 or np.flatnonzero(within).tolist() == rows
    for row in tree.siblings:
        parts = [below[node] for node in row if node < tree.nodes]
        assert len(parts) > 1
        whole = set.union(*parts)
        assert sum(map(len, parts)) == len(whole)
        assert whole in [*below, set(range(len(cells)))]
    assert len(np.unique(tree.path, axis=0)) == len(cells)


def s2_above(cell):
    return [cell, *(s2.parents(np.array([cell]), level)[0] for level in range(s2.level_of(cell) - 1, -1, -1))]


def inside(cells, cell):
    return (s2.range_min(cell) <= cells) & (cells <= s2.range_max(cell))


def test_a_hierarchy_multiplies_a_softmax_at_each_branching():
    tree = Tree.of(cells_of("nested"))
    layer, features = HierarchicalSoftmax(6, tree), torch.randn(3, 6)
    logits, score = layer(features), layer.nodes(features)
    among = {int(n): [int(m) for m in row if m < tree.nodes] for row in tree.siblings for n in row}
    by_hand = [
        sum(score[:, among[n]].log_softmax(dim=1)[:, among[n].index(n)] for n in way.tolist() if n < tree.nodes)
        for way in tree.path
    ]
    torch.testing.assert_close(logits, torch.stack(by_hand, dim=1))
    torch.testing.assert_close(logits.exp().sum(dim=1), torch.ones(3))
    # So a target over cells is a target at each branching: its sums below the nodes.
    target = torch.rand(3, len(tree.path)).softmax(dim=1)
    sums = torch.stack([target[:, (tree.path == n).any(axis=1)].sum(dim=1) for n in range(tree.nodes)], dim=1)
    parts = [(sums[:, row] * score[:, row].log_softmax(dim=1)).sum(dim=1) for row in {tuple(r) for r in among.values()}]
    torch.testing.assert_close(cross_entropy(logits, target, reduction="none"), -sum(parts))
    cross_entropy(logits, target).backward()
    assert layer.nodes.weight.grad.isfinite().all()


def test_a_hierarchy_is_learned_and_read_back(town, tmp_path):
    cells, epochs = {"split_above": 10, "drop_below": 1}, {"epochs": 2}
    bundle = fit(tiny_recipe(head={"hierarchy": True}, cells=cells, train=epochs), town)
    again = Bundle.read(bundle.write(tmp_path / "bundle"))
    fix, same = (Locator(one).locate(town.paths()[1]) for one in (bundle, again))
    assert fix == same
    assert great_circle_km(fix.lat, fix.lon, *QUARTERS[1]) < 1.0  # the quarters lie over 1.7 km apart


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        pytest.param({"answer": "regressed"}, "needs head.kind: position or both", id="nothing regresses"),
        pytest.param({"head": {"kind": "position"}, "answer": "mode"}, "answers regressed", id="no cells"),
        pytest.param(
            {"head": {"kind": "position"}, "target": {"kind": "distance", "tau_km": 1}}, "leave target out", id="target"
        ),
        pytest.param({"target": {"alpha": 5}}, "goes with head.kind: both", id="stray alpha"),
        pytest.param(
            {"head": {"hierarchy": True}, "cells": {"kind": "kmeans", "clusters": 9}},
            "hierarchy runs down S2 cells, so it goes with cells.kind: s2 or semantic; here the kind is kmeans",
            id="cells without ancestors",
        ),
        pytest.param({"head": {"kind": "position", "hierarchy": True}}, "has none", id="hierarchy of a position"),
    ],
)
def test_heads_and_answers_that_do_not_fit_are_refused(tree, sentence):
    with pytest.raises(BadRecipeError, match=sentence):
        parse_recipe(tree)


def test_the_answer_follows_the_head():
    assert parse_recipe({}).answer == "median"
    assert parse_recipe({"head": {"kind": "position"}}).answer == "regressed"
    assert parse_recipe({"head": {"kind": "both"}, "answer": "regressed"}).answer == "regressed"
