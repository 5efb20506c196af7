import os
import shutil
import signal
import time

import numpy as np
import polars as pl
import psutil
import pytest
import timm
import torch
from processes import command, ended, start
from test_cli import write_recipe
from towns import make_town, tiny_recipe

from graticule.config import parse_recipe
from graticule.errors import BadPhotoError, BadRecipeError, BundleError, NotEnoughMemoryError
from graticule.model.bundle import Bundle
from graticule.model.features import FeatureStore
from graticule.model.loading import ShapeBatches
from graticule.photos.table import Photos, read_photos
from graticule.sections import LabelCells
from graticule.training.fit import fit
from graticule.training.train import train


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=10).state_dict(), path)
    return str(path)


def state(bundle):
    return bundle.model.state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"target": {"kind": "one_cell"}}, id="one cell"),
        pytest.param({"target": {"kind": "smoothed", "smoothing": 0.1}}, id="smoothed"),
        pytest.param({"target": {"kind": "distance", "tau_spacings": 0.2}}, id="distance"),
        pytest.param(
            {"image": {"resize": "fit", "longest": 48, "height": None, "width": None}},
            id="two shapes of photo",
        ),
        pytest.param({"head": {"hidden": 16, "dropout": 0.1}}, id="hidden layer"),
        pytest.param({"augment": {"crop": 0.2, "light": 0.2, "erase": 0.1}}, id="augmented"),
        pytest.param({"train": {"schedule": "cosine"}}, id="cosine"),
        pytest.param({"encoder": {"name": "torchvision/shufflenet_v2_x0_5"}}, id="torchvision"),
    ],
)
def test_training_learns_the_town_whatever_the_recipe(town, changes):
    losses = []
    bundle = fit(tiny_recipe(**changes), town, progress=lambda *told: losses.append(told))
    assert bundle.facts["cells"] == 4
    assert bundle.facts["epochs"]["train_loss"] < 1.0 < np.log(4)
    assert losses[-1][0] == losses[-1][1]


def test_two_runs_of_one_recipe_give_the_same_weights(town):
    recipe = tiny_recipe(augment={"crop": 0.2}, head={"dropout": 0.2})
    one, two = state(fit(recipe, town)), state(fit(recipe, town))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_frozen_encoder_is_left_as_it_was_and_its_features_are_kept(town, weights, tmp_path):
    recipe = tiny_recipe(encoder={"weights": weights, "frozen": True}, train={"epochs": 30})
    store = FeatureStore(tmp_path / "features")
    bundle = fit(recipe, town, store=store)
    donor = torch.load(weights, weights_only=True)
    assert all(torch.equal(t, donor[name]) for name, t in bundle.model.encoder.body.state_dict().items())
    [file] = (tmp_path / "features").glob("*/*.safetensors")
    written = file.stat().st_ino
    again = fit(recipe, town, store=FeatureStore(tmp_path / "features"))
    assert file.stat().st_ino == written
    assert torch.equal(state(again)["head.cells.weight"], state(bundle)["head.cells.weight"])


def test_cells_come_from_the_training_rows_alone(town, tmp_path):
    bundle = train(tiny_recipe(), town, tmp_path / "run")
    table = pl.read_parquet(tmp_path / "run/training/photos.parquet")
    assert bundle.partition.photos.sum() == (table["split"] == "train").sum()
    assert set(table["split"]) == {"train", "val", "test"}
    by_part = table.group_by("sequence").agg(pl.col("split").n_unique())
    assert by_part["split"].max() == 1


def test_a_run_leaves_its_history_and_its_audit(town, tmp_path):
    train(tiny_recipe(), town, tmp_path / "run")
    history = pl.read_csv(tmp_path / "run/training/history.csv")
    assert history["epoch"].to_list() == [1, 2, 3, 4]
    assert {"train_loss", "val_loss", "val_median_km", "lr", "photos_per_second"} <= set(history.columns)
    assert (tmp_path / "run/training/audit.json").exists()


def three_stages(table, out, resume=False):
    image = {"resize": "fit", "longest": 48, "height": None, "width": None}  # two shapes of photo
    chance = {"augment": {"crop": 0.2, "light": 0.2}, "head": {"dropout": 0.2}}
    first, last = {"epochs": 2, "freeze": ["encoder"]}, {"epochs": 4, "freeze": ["encoder[:-2]"]}
    stages = [first, {"epochs": 6, "lr": 0.02}, last]
    recipe = tiny_recipe(image=image, train={"stages": stages, "schedule": "plateau", "epochs": 12}, **chance)
    train(recipe, read_photos(table), out, resume=resume)


def test_a_run_killed_in_its_second_of_three_stages_resumes_to_the_weights_of_an_uninterrupted_one(town, tmp_path):
    def run(folder, resume=False):
        return start(three_stages, town.root / "table.csv", tmp_path / folder, resume, said=tmp_path / "said.txt")

    killed = run("killed")
    history = tmp_path / "killed/training/history.csv"
    deadline = time.monotonic() + 120
    while killed.exitcode is None and time.monotonic() < deadline:
        if history.exists() and len(history.read_text().splitlines()) >= 4:
            killed.kill()
            break
        time.sleep(0.01)
    assert ended(killed) == -signal.SIGKILL
    with pytest.raises(BundleError):
        Bundle.read(tmp_path / "killed")
    assert ended(run("killed", resume=True)) == 0, (tmp_path / "said.txt").read_text()
    assert ended(run("whole")) == 0
    one, two = state(Bundle.read(tmp_path / "whole")), state(Bundle.read(tmp_path / "killed"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    told = pl.read_csv(history)
    assert told["epoch"].to_list() == list(range(1, 13))
    assert told["stage"].to_list() == [1] * 2 + [2] * 6 + [3] * 4
    assert told["lr"].n_unique() > 3  # the plateau's state was carried over: its rates are the whole run's
    same = ("train_loss", "val_loss", "lr")
    assert told.select(same).equals(pl.read_csv(tmp_path / "whole/training/history.csv").select(same))


def test_a_finished_run_is_not_overwritten_unasked(town, tmp_path):
    train(tiny_recipe(train={"epochs": 1}), town, tmp_path / "run")
    with pytest.raises(BadRecipeError, match="holds a run already; add --resume"):
        train(tiny_recipe(train={"epochs": 1}), town, tmp_path / "run")
    with pytest.raises(BadRecipeError, match="is another one: train.epochs is 2 and was 1"):
        train(tiny_recipe(train={"epochs": 2}), town, tmp_path / "run", resume=True)


def resumed_with(town, folder, **columns):
    table = Photos(town.frame.with_columns(**columns), town.root)
    return train(tiny_recipe(split={"by": "column"}, train={"epochs": 1}), table, folder, resume=True)


def test_a_run_is_not_resumed_under_another_split_or_other_marks(town, tmp_path):
    number = pl.int_range(pl.len())
    here = pl.when(number % 4 == 0).then(pl.lit("test")).otherwise(pl.lit("train"))
    there = pl.when(number % 4 == 1).then(pl.lit("test")).otherwise(pl.lit("train"))
    resumed_with(town, tmp_path / "run", split=here)
    with pytest.raises(BadRecipeError, match="the split is another"):
        resumed_with(town, tmp_path / "run", split=there)
    marked = pl.when(number == 2).then(pl.lit("blur"))
    with pytest.raises(BadRecipeError, match="the split is another"):
        resumed_with(town, tmp_path / "run", split=here, marked=marked)
    assert resumed_with(town, tmp_path / "run", split=here).facts["photos"] > 0


def test_a_run_is_not_resumed_with_other_labels(town, tmp_path):
    recipe = tiny_recipe(train={"epochs": 1}).model_copy(update={"cells": LabelCells(kind="label", label="quarter")})
    labels = ["a", "b", "c", "d"] * (len(town) // 4)

    def run(values, **options):
        return train(recipe, Photos(town.frame.with_columns(quarter=pl.Series(values)), town.root), tmp_path, **options)

    run(labels)
    with pytest.raises(BadRecipeError, match="the labels are others"):
        run(labels[::-1], resume=True)


class Hostile:
    """What unpickles by running a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def hostile(path):
    torch.save(torch.load(path) | {"callbacks": {"History": Hostile(path.with_name("owned"))}}, path)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:5000])


def rotten(path):
    """Eight bytes in the middle of the weights are others; the file unpacks all the same."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8] = b"\xff" * 8
    path.write_bytes(data)


def of_another_network(path):
    torch.save(torch.load(path) | {"state_dict": {"net.mean": torch.zeros(1)}}, path)


SPOILT = {
    "hostile": hostile,
    "cut short": cut_short,
    "rotten": rotten,
    "of another network": of_another_network,
    "empty": lambda path: path.write_bytes(b""),
    "no dict": lambda path: torch.save([1, 2], path),
    "nothing in it": lambda path: torch.save({}, path),
    "no loops": lambda path: torch.save({k: v for k, v in torch.load(path).items() if k != "loops"}, path),
    "callbacks that are none": lambda path: torch.save(torch.load(path) | {"callbacks": 3}, path),
}


@pytest.fixture(scope="module")
def finished(town, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_recipe(train={"epochs": 1}), town, folder)
    return folder


@pytest.mark.parametrize("kind", SPOILT)
def test_a_checkpoint_can_neither_run_code_nor_end_in_a_traceback(town, finished, tmp_path, kind):
    shutil.copytree(finished, tmp_path / "run")
    last = tmp_path / "run/training/checkpoints/last.ckpt"
    SPOILT[kind](last)
    (tmp_path / "run/bundle.json").unlink()
    with pytest.raises(BadRecipeError, match="cannot be resumed: it is damaged, of another network or holds more than"):
        train(tiny_recipe(train={"epochs": 1}), town, tmp_path / "run", resume=True)
    assert not last.with_name("owned").exists()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_note_of_a_run_is_a_sentence(town, finished, tmp_path, text):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run/training/run.json").write_text(text)
    with pytest.raises(BadRecipeError, match="run.json does not say what its run was started with"):
        train(tiny_recipe(train={"epochs": 1}), town, tmp_path / "run", resume=True)


def test_a_run_goes_on_with_settings_that_change_no_weight(town, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    recipe = tiny_recipe(answer="mode", train={"epochs": 1, "check_memory": False, "workers": 1})
    assert train(recipe, town, tmp_path / "run", resume=True).facts["cells"] == 4
    assert Bundle.read(tmp_path / "run").recipe.answer == "mode"


def test_a_run_that_failed_before_its_first_epoch_can_be_started_again(town, tmp_path):
    with pytest.raises(BadRecipeError, match="only one cell"):
        train(tiny_recipe(cells={"split_above": 500}), town, tmp_path / "run")
    bundle = train(tiny_recipe(train={"epochs": 1}), town, tmp_path / "run")
    assert bundle.facts["cells"] == 4


def test_a_folder_with_other_things_is_not_written_to(town, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadRecipeError, match="is not empty and holds no run"):
        train(tiny_recipe(), town, tmp_path)


def test_a_single_cell_is_refused(town):
    with pytest.raises(BadRecipeError, match="only one cell"):
        fit(tiny_recipe(cells={"split_above": 500}), town)


def test_a_photo_that_went_missing_is_named(town):
    gone = town.frame.with_columns(pl.lit("nowhere.jpg").alias("path"))
    with pytest.raises(BadPhotoError, match=r"nowhere.jpg"):
        fit(tiny_recipe(), type(town)(gone, town.root))


def test_a_step_that_would_not_fit_is_refused_with_a_batch_size_that_does(town, monkeypatch):
    class Free:
        available = 200_000_000

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    with pytest.raises(NotEnoughMemoryError, match=r"train.batch_size: \d+ would fit") as caught:
        fit(tiny_recipe(image={"height": 512, "width": 512}, train={"batch_size": 512}), town)
    fits = int(str(caught.value).split("train.batch_size: ")[-1].split()[0])
    assert 1 <= fits < 512


def test_a_loss_that_runs_away_says_so(town):
    with pytest.raises(BadRecipeError, match="lower train.lr"):
        fit(tiny_recipe(train={"lr": 1e30, "epochs": 3}), town)


def test_batches_hold_one_shape_and_every_photo_once():
    shapes = np.array([(32, 48)] * 11 + [(48, 32)] * 6)
    order = ShapeBatches(shapes, 4, seed=1)
    for epoch in (0, 1):
        order.set_epoch(epoch)
        lists = list(order)
        assert sorted(i for indices in lists for i in indices) == list(range(17))
        assert all(len({tuple(shapes[i]) for i in indices}) == 1 for indices in lists)
        assert len(lists) == len(order)


def test_the_order_depends_on_seed_and_epoch_alone():
    shapes = np.zeros((40, 2), np.int64)

    def order(seed, epoch):
        batches = ShapeBatches(shapes, 4, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 5) == order(1, 5)
    assert order(1, 5) != order(1, 6)
    assert order(1, 5) != order(2, 5)


def test_a_recipe_round_trips_through_its_bundle(town, tmp_path):
    recipe = tiny_recipe(train={"epochs": 1})
    train(recipe, town, tmp_path / "run")
    assert Bundle.read(tmp_path / "run").recipe == parse_recipe(recipe.model_dump(mode="json"))


def test_ctrl_c_in_training_says_how_to_go_on_and_the_run_can_be_resumed(town, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", train={"epochs": 20})
    words = ["train", recipe, "--photos", town.root / "table.csv", "--out", tmp_path / "run"]
    said = tmp_path / "said.txt"
    stopped = command(*words, said=said)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/training/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(stopped.pid, signal.SIGINT)
    assert ended(stopped) == 130
    assert "the same command with --resume goes on after the last checkpoint" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert ended(command(*words, "--resume", said=said)) == 0, said.read_text()
