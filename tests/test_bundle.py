"""Bundles of every format that stays readable, and bundles that nobody should trust."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import encoded, picture

import graticule
from graticule.errors import BadRecipeError, BundleError
from graticule.files import sha256_of
from graticule.geo.sphere import great_circle_km
from graticule.model import index as bundle_index
from graticule.model.bundle import Bundle
from graticule.model.index import INDEX, RECIPE, WEIGHTS

OF_REGIONS = ("area_km2", "median_error_km", "p90_error_km", "unlike_training")
KEPT = Path(__file__).parent / "bundles"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(KEPT / "format-2", tmp_path / "bundle"))


def sign(folder, **changes):
    """Give the index the hashes of the files as they are: whoever makes a hostile bundle can."""
    index = json.loads((folder / INDEX).read_text()) | changes
    index["sha256"] |= {name: sha256_of(folder / name) for name in bundle_index.FILES}
    index["sha256"][INDEX] = bundle_index.own_hash(index)
    (folder / INDEX).write_text(json.dumps(index))


def test_a_bundle_of_every_format_is_kept():
    kept = {int(folder.name.removeprefix("format-")) for folder in KEPT.iterdir() if folder.is_dir()}
    assert kept == set(range(bundle_index.OLDEST, bundle_index.FORMAT + 1))


@pytest.mark.parametrize("folder", sorted(KEPT.glob("format-*")), ids=lambda folder: folder.name)
def test_a_kept_bundle_opens_and_answers_as_when_it_was_made(folder):
    found = graticule.load(folder).locate(folder / "photo.jpg").to_json()
    stored = json.loads((folder / "answer.json").read_text())
    cells = found.pop("cells"), stored.pop("cells")
    assert bool(found.pop("region")) == bool(stored.pop("region", []))
    for name, value in stored.items():
        # Which cells lie at the edge of a region is a matter of rounding.
        near = {"abs": 0, "rel": 0.02} if name in OF_REGIONS else {"abs": 1e-4, "rel": 1e-6}
        assert found[name] == (pytest.approx(value, **near) if isinstance(value, float) else value), name
    assert len(cells[0]) == len(cells[1])
    for ours, theirs in zip(*cells, strict=True):
        assert ours.pop("token") == theirs.pop("token")
        assert ours == pytest.approx(theirs, abs=1e-5, rel=0)


def test_an_older_bundle_is_lifted_step_by_step(copy, monkeypatch):
    sign(copy, facts={"steps": []})

    def renamed(index, recipe):
        return index | {"facts": {"steps": [*index["facts"]["steps"], index["format"]]}}, recipe

    def reseeded(index, recipe):
        index, recipe = renamed(index, recipe)
        return index, recipe | {"seed": 11}

    for room in ("index", "bundle"):
        monkeypatch.setattr(f"graticule.model.{room}.FORMAT", 4)
    monkeypatch.setattr(bundle_index, "STEPS", {2: renamed, 3: reseeded})
    opened = Bundle.read(copy)
    assert opened.facts == {"steps": [2, 3]}
    assert opened.recipe.seed == 11
    again = Bundle.read(opened.write(copy.parent / "again"))
    assert again.facts == {"steps": [2, 3]}


@pytest.mark.parametrize("number", [1, 0, None, "2", True])
def test_a_format_that_was_never_kept_is_refused(copy, number):
    sign(copy, format=number)
    with pytest.raises(BundleError, match=f"has format {number!r}; this version of graticule reads formats 2 to 6$"):
        Bundle.read(copy)


def test_a_newer_format_asks_for_a_newer_graticule(copy):
    sign(copy, format=bundle_index.FORMAT + 1)
    with pytest.raises(BundleError, match="has format 7; .* upgrade graticule"):
        Bundle.read(copy)


def test_an_index_that_names_a_file_outside_the_folder_is_refused(copy):
    index = json.loads((copy / INDEX).read_text())
    sign(copy, sha256=index["sha256"] | {"../x": "0" * 64})
    with pytest.raises(BundleError, match=r"names files that are no part of a bundle: \.\./x"):
        Bundle.read(copy)


class Trap:
    """Pickled, it writes a file when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", [WEIGHTS, "cells.parquet", RECIPE])
def test_no_file_of_a_bundle_runs_code(copy, name):
    mark = copy.parent / "mark"
    if name == RECIPE:
        (copy / name).write_text(f"name: !!python/object/apply:os.mkdir ['{mark}']\n")
    else:
        (copy / name).write_bytes(pickle.dumps(Trap(mark)))
    sign(copy)
    with pytest.raises(BundleError, match="does not open"):
        Bundle.read(copy)
    assert not mark.exists()


@pytest.mark.parametrize("name", [WEIGHTS, RECIPE])
def test_a_shape_beyond_all_memory_is_refused(copy, name):
    if name == WEIGHTS:
        header = json.dumps({"head.bias": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
        (copy / name).write_bytes(len(header).to_bytes(8, "little") + header)
    else:
        tree = yaml.safe_load((copy / name).read_text())
        tree["head"]["hidden"] = 10**9
        (copy / name).write_text(yaml.safe_dump(tree))
    sign(copy)
    with pytest.raises(BundleError, match="does not open"):
        Bundle.read(copy)


@pytest.mark.parametrize(
    "changes",
    [{"preprocess": {"wings": 2}}, {"preprocess": None}, {"facts": None}],
    ids=["unknown preprocessing", "none", "no facts"],
)
def test_an_index_that_makes_no_sense_is_refused_with_a_sentence(copy, changes):
    sign(copy, **changes)
    with pytest.raises(BundleError, match="does not open"):
        Bundle.read(copy)


def test_a_bundle_reads_no_weights_but_its_own(copy):
    mark, elsewhere = copy.parent / "mark", copy.parent / "elsewhere.pth"
    elsewhere.write_bytes(pickle.dumps(Trap(mark)))
    tree = yaml.safe_load((copy / RECIPE).read_text())
    tree["encoder"]["options"]["checkpoint_path"] = str(elsewhere)
    (copy / RECIPE).write_text(yaml.safe_dump(tree))
    sign(copy)
    assert "checkpoint_path" not in Bundle.read(copy).recipe.encoder.options
    assert not mark.exists()


def test_a_calibrated_bundle_refuses_to_tell_where_it_would_be_too_far_off():
    folder = KEPT / "format-3"
    locator = graticule.load(folder)
    sure, unsure = (next(locator.results([folder / "photo.jpg"], max_error_km=limit)).fix for limit in (100.0, 0.001))
    assert sure.cannot_tell is None
    assert unsure.cannot_tell.startswith("half of such photos lie more than")
    assert (unsure.lat, unsure.lon) == (sure.lat, sure.lon)
    strange = replace(sure, unlike_training=0.99).if_within(100.0)
    assert "unlike the training photos" in strange.cannot_tell
    with pytest.raises(BadRecipeError, match="not calibrated"):
        list(graticule.load(KEPT / "format-2").results([folder / "photo.jpg"], max_error_km=1.0))


def test_an_answer_must_be_as_probable_as_is_asked_within_the_largest_error():
    folder = KEPT / "format-3"
    locator = graticule.load(folder)
    fix = locator.locate(folder / "photo.jpg")

    def told(max_error_km, least):
        [result] = locator.results([folder / "photo.jpg"], max_error_km=max_error_km, min_probability=least)
        return result.fix.cannot_tell

    for least, error_km in ((0.5, fix.median_error_km), (0.9, fix.p90_error_km)):  # what the fix says itself
        assert told(error_km * 1.001, least) is None
        assert "of such photos lie more than" in told(error_km * 0.999, least)
    between = (fix.median_error_km * fix.p90_error_km) ** 0.5
    assert told(between, 0.5) is None
    assert told(between, 0.9).startswith("10% of such photos lie more than")


def test_a_bundle_answers_with_another_point_where_it_is_asked_to():
    folder = KEPT / "format-3"
    found = {
        answer: graticule.load(folder, answer=answer).locate(folder / "photo.jpg") for answer in ("score", "densest")
    }
    median = graticule.load(folder).locate(folder / "photo.jpg")
    for fix in found.values():
        assert fix.area_km2 == median.area_km2  # the belief is the same
        assert fix.expected_error_km >= 0.99 * median.expected_error_km  # the median's is the least
        assert great_circle_km(fix.lat, fix.lon, median.lat, median.lon) < 5
    with pytest.raises(BadRecipeError, match="answer: regressed needs head.kind: position or both"):
        graticule.load(folder, answer="regressed")


def test_night_is_told_where_it_keeps_a_bundle_from_telling_and_a_black_photo_always():
    locator = graticule.load(KEPT / "format-3")
    scene = picture(320, 240, 0)
    black, dark = encoded((scene * 0.05).astype(np.uint8)), encoded((scene * 0.35).astype(np.uint8))
    wide, narrow = (
        [r.fix.cannot_tell or "" for r in locator.results([black, dark], max_error_km=km)] for km in (2e4, 1e-3)
    )
    assert wide[0].startswith("nothing can be recognised in it (black)")
    assert "dark" not in wide[1]
    assert "km off, and it was taken in the dark" in narrow[1] or "m off, and it was taken in the dark" in narrow[1]


@pytest.mark.parametrize("name", bundle_index.CONFIDENCE)
def test_a_bundle_whose_calibration_is_gone_or_changed_is_refused(tmp_path, name):
    folder = Path(shutil.copytree(KEPT / "format-3", tmp_path / "bundle"))
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1] + b" ")
    with pytest.raises(BundleError, match="is not the file that training wrote"):
        Bundle.read(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        Bundle.read(folder)


def test_a_bundle_that_is_written_again_is_as_sure_as_before(tmp_path):
    first = Bundle.read(KEPT / "format-3")
    again = Bundle.read(first.write(tmp_path / "again"))
    assert again.confidence.calibration == first.confidence.calibration
    assert (again.confidence.known.features == first.confidence.known.features).all()
