"""One command from photos to a report."""

import json
from unittest import mock

import polars as pl
import pytest
import timm
import torch
from test_cli import graticule, write_recipe
from towns import make_town

from graticule.cli import start
from graticule.errors import SourceError
from graticule.evaluation import folds
from graticule.evaluation.comparison import compare
from graticule.training import train
from graticule.training.fit import fit


@pytest.fixture(scope="module", autouse=True)
def few_folds():
    """Two folds, and no calibration: both have tests of their own, and take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "FOLDS", 2)
        patch.setattr(folds, "fit_calibrated", calibrate_not)
        patch.setattr(train, "fit_calibrated", calibrate_not)
        yield


def calibrate_not(*args, by=None, albums=True, **kwargs):
    return fit(*args, **kwargs)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A town with times, a recipe with a frozen encoder, and what `start` made of both."""
    folder = tmp_path_factory.mktemp("start")
    make_town(folder / "photos")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet", num_classes=0).state_dict(), folder / "w.pth")
    encoder = {"name": "test_efficientnet", "frozen": True, "weights": str(folder / "w.pth")}
    recipe = write_recipe(folder / "recipe.yaml", encoder=encoder, train={"epochs": 2})
    command = ("start", folder / "photos/table.csv", folder / "out", "--recipe", recipe)
    command += ("--try", "head.hidden=0", "--try", "head.hidden=8", "--try", "encoder.name=test_vit")
    first = cut_short(*command)
    done = graticule(*command)
    assert done.returncode == 0, done.stderr
    return folder, command, (first, done)


def cut_short(*command):
    """Run a start that fails when it comes to train."""
    run = start._Steps.run

    def cut(self, *words, product):
        if words[0] == "train":
            raise SourceError("cut")
        run(self, *words, product=product)

    with mock.patch.object(start._Steps, "run", cut):
        done = graticule(*command)
    assert done.returncode == 1
    return done


def steps(done):
    return [line.split()[2:] for line in done.stdout.splitlines() if line.startswith("$ graticule")]


def test_one_command_goes_from_photos_to_a_report_and_prints_each_step(begun):
    folder, _, (first, second) = begun
    names = [words[0] if words[0] != "data" else f"data {words[1]}" for words in steps(first)]
    begin = ["data table", "data check", "data split", "data audit"]
    assert names == [*begin, "crossval", "crossval", "crossval", "table"]
    assert [words[0] for words in steps(second)][-3:] == ["train", "evaluate", "report"]
    assert (folder / "out/report.html").read_text().startswith("<!")
    assert "left out" in first.stderr  # weights of another network
    assert "the nearest training photo" in second.stdout
    result, helps, paths = second.stdout.splitlines()[-3:]
    assert "test photos lie within" in result
    assert helps.startswith("what helps most: more photos, since 96 are few")
    assert str(folder / "out/photos") in paths
    held = pl.read_parquet(folder / "out/photos/photos.parquet").filter(pl.col("split") == "test")["path"]
    for name in ("0", "8"):
        seen = pl.read_parquet(folder / f"out/compare/{name}/predictions.parquet")["path"]
        assert not set(seen) & set(held)  # the choice is made without the test part


def test_a_start_that_was_cut_short_goes_on(begun):
    _, _, (_, second) = begun
    # The candidate whose weights do not fit is tried again.
    assert [words[0] for words in steps(second) if words[-1] != "done"] == ["crossval", "train", "evaluate", "report"]


def test_a_second_start_does_nothing_twice_and_what_was_lost_is_made_again(begun):
    folder, command, _ = begun
    weights = folder / "out/model/weights.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "out/report.html").unlink()
    again = graticule(*command)
    assert again.returncode == 0, again.stderr
    left = [words[0] for words in steps(again) if words[-1] != "done"]
    assert left == ["crossval", "report"]  # the candidate whose weights do not fit is tried again
    assert weights.stat().st_mtime_ns == before


def test_a_folder_of_another_start_is_refused_with_what_differs(begun, tmp_path):
    _, command, _ = begun
    other = graticule(*command, "--set", "seed=1")
    assert other.returncode == 1
    assert "set is ['seed=1'] and was []" in other.stderr
    (tmp_path / "x").touch()
    assert "nothing was started in it" in graticule("start", tmp_path, tmp_path).stderr


def test_commands_that_are_given_the_folder_of_a_start_name_what_lies_in_it(begun):
    folder, _, _ = begun
    out = folder / "out"
    assert f"its dataset lies in {out / 'photos'}" in graticule("data", "check", out).stderr
    assert f"its bundle lies in {out / 'model'}" in graticule("predict", out, folder).stderr


def test_too_few_photos_and_no_photos_are_told_at_once(tmp_path):
    make_town(tmp_path / "one", count=1)
    few = graticule("start", tmp_path / "one/table.csv", tmp_path / "out")
    assert "1 photo cannot teach a model; some hundred are the least" in few.stderr
    assert "$ graticule data check" not in few.stdout
    assert "give a folder of photos, a table" in graticule("start", tmp_path / "no", tmp_path / "out").stderr


def test_a_dataset_with_a_split_keeps_it_and_is_left_as_it_is(begun):
    folder, command, _ = begun
    dataset = folder / "out/photos"
    before = (dataset / "photos.parquet").read_bytes()
    about = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(about | {"synthetic": True}))
    done = cut_short("start", dataset, folder / "second", *command[3:7])
    (dataset / "dataset.json").write_text(json.dumps(about))
    assert "has a split of its own, which is kept" in done.stdout
    assert "(synthetic)" in done.stdout
    assert (dataset / "photos.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("own", "nearest", "sentence"),
    [
        (1.0, 2.0, "training is worth it"),
        (2.0, 1.0, "the nearest training photo is nearer"),
        (1.0, 1.0, "the nearest training photo is as"),
    ],
)
def test_the_advice_says_whether_the_nearest_neighbour_does_as_well(tmp_path, own, nearest, sentence):
    spread = [1 + i % 7 / 10 for i in range(60)]
    for name, factor in (("a", 1.0), ("b", 1.0 if own == nearest else 3.0)):
        rows = {"path": [str(i) for i in range(60)], "place_code": range(60), "error": None}
        rows |= {"error_km": [factor * own * s for s in spread], "nearest_error_km": [nearest * s for s in spread]}
        (tmp_path / name).mkdir()
        pl.DataFrame(rows).write_parquet(tmp_path / name / "predictions.parquet")
    best, said = compare({"a": tmp_path / "a", "b": tmp_path / "b"})
    assert best == "a"
    assert said[0].startswith("a may be no nearer" if own == nearest else "a is nearer")
    assert said[1].startswith(sentence) or sentence in said[1]
