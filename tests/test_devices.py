"""Training on several devices: two processes on the CPU, through Lightning's own strategy."""

import os
import socket
import sys
import time
import types
from datetime import timedelta

import numpy as np
import polars as pl
import psutil
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from processes import command, ended
from test_docs import commands
from towns import make_town, tiny_recipe

from graticule.errors import BadRecipeError, DeviceError
from graticule.model.bundle import Bundle
from graticule.model.geolocator import build_geolocator
from graticule.training import devices
from graticule.training.devices import Machines
from graticule.training.fit import fit
from graticule.training.trackers import make_logger
from graticule.training.train import train

# Without batch normalisation, dropout and augmentation, whose chance and statistics are a process's own.
EXACT = {"encoder": {"name": "test_convnext"}, "train": {"epochs": 6, "lr": 0.002, "clip": 1.0}}


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"), count=72)


def words(line, town, folder, devices):
    """A command of docs/cluster.md, on this town with so many devices."""
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(**EXACT).model_dump(mode="json")))
    of_page = {"washington-dc": recipe, "city": town.root / "table.csv", "runs/dc": folder, "4": devices}
    told = [words for words in commands("docs/cluster.md") if words[0] == "train"][line]
    assert of_page.keys() <= set(told)
    return [of_page.get(word, word) for word in told]


def test_two_processes_learn_what_one_does_and_go_on_after_one_of_them_was_killed(town, tmp_path):
    recipe, saying = tiny_recipe(**EXACT), [tmp_path / f"said-{rank}.txt" for rank in (0, 1)]
    one = train(recipe, town, tmp_path / "one")
    run = command(*words(0, town, tmp_path / "two", 2), said=saying[0])  # Lightning starts the second one
    checkpoint = tmp_path / "two/training/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and run.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.01)
    [second] = [child for child in psutil.Process(run.pid).children() if "train" in child.cmdline()]
    second.kill()
    said = saying[0].read_text() if ended(run) == 1 else pytest.fail(saying[0].read_text())
    assert "another process of this run has ended or never came" in said
    assert "Traceback" not in said
    assert not (tmp_path / "two/bundle.json").exists()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # On each of two machines, that share the folders.
    line = words(1, town, tmp_path / "two", 1)
    resumed = [command(*line, said=saying[rank], NODE_RANK=str(rank), **told) for rank in (0, 1)]
    assert [ended(process) for process in resumed] == [0, 0], [path.read_text() for path in saying]
    assert [path.read_text().count("trained on") for path in saying] == [1, 0]  # one process speaks
    columns = ("epoch", "train_loss", "val_loss")
    history = [pl.read_csv(tmp_path / name / "training/history.csv").select(columns) for name in ("one", "two")]
    assert history[0]["epoch"].to_list() == history[1]["epoch"].to_list() == list(range(1, 7))
    np.testing.assert_allclose(history[1].to_numpy(), history[0].to_numpy(), rtol=1e-3)
    start_weights = build_geolocator(recipe, 4).state_dict()
    ours = Bundle.read(tmp_path / "two").model.state_dict()
    moved = torch.cat([(w - start_weights[name]).flatten() for name, w in one.model.state_dict().items()])
    apart = torch.cat([(w - ours[name]).flatten() for name, w in one.model.state_dict().items()])
    assert apart.norm() < 2e-3 * moved.norm()


def test_a_process_that_the_others_never_join_stops_with_a_sentence(town, monkeypatch):
    monkeypatch.setattr(devices, "PATIENCE", timedelta(seconds=1))
    for name, value in {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)  # as a launcher does that starts the others itself
    with pytest.raises(DeviceError, match="has ended or never came"):
        fit(tiny_recipe(**EXACT), town, machines=Machines(devices=2))


@pytest.mark.parametrize("settings", [{"batch_size": 15}, {"batch_size": 16, "accumulate": 3}])
def test_a_step_that_devices_and_parts_cannot_share_evenly_is_refused(town, settings):
    with pytest.raises(BadRecipeError, match="cannot share evenly; give a multiple of"):
        fit(tiny_recipe(train=settings), town, machines=Machines(devices=2))


def test_a_head_alone_is_not_trained_on_several_devices():
    with pytest.raises(BadRecipeError, match="leave out --devices"):
        Machines(devices=2).check(16, 1, frozen=True)


def test_torchrun_says_how_many_processes_there_are_and_which_is_the_first(monkeypatch):
    assert Machines.of(None, None) == Machines()
    monkeypatch.setattr(os, "environ", {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "4", "LOCAL_RANK": "0"})
    assert Machines.of(None, None) == Machines(4, 2)
    assert not Machines.of(None, None).is_first
    monkeypatch.setattr(os, "environ", {"NODE_RANK": "1"})
    assert not Machines(1, 2).is_first  # of two machines whose owner says which is which
    assert Machines(1, 1).is_first  # of four runs that srun started side by side, each writes its own files


def test_parameters_are_not_divided_among_processors():
    with pytest.raises(ValueError, match="fsdp.*requires a GPU"):  # why there is no setting for it
        Trainer(accelerator="cpu", strategy="fsdp", logger=False)


def test_tensorboard_is_told_what_the_history_is_told(town, tmp_path):
    train(tiny_recipe(train={"epochs": 2}), town, tmp_path / "run", machines=Machines(tracker="tensorboard"))
    [events] = (tmp_path / "run/training/tensorboard").glob("events*")
    history = pl.read_csv(tmp_path / "run/training/history.csv")
    assert b"train_loss" in events.read_bytes()
    assert b"val_median_km" in events.read_bytes()
    assert len(history) == 2


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(BadRecipeError, match="pip install trackio"):
        make_logger("trackio", "run", None)


def test_trackio_is_called_as_its_manual_says(monkeypatch):
    calls = []
    fake = types.SimpleNamespace(
        init=lambda **given: calls.append(("init", given)),
        log=lambda metrics, step: calls.append(("log", metrics, step)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    logger = make_logger("trackio", "run", None)
    logger.log_hyperparams({"seed": 0})
    logger.log_metrics({"train_loss": 1.0}, step=3)
    logger.finalize("success")
    assert [call[0] for call in calls] == ["init", "log", "finish"]
    assert calls[0][1]["config"] == {"seed": 0}


def test_a_run_with_a_moving_average_that_was_stopped_after_its_last_epoch_ends_with_the_average(town, tmp_path):
    recipe = tiny_recipe(**EXACT | {"train": EXACT["train"] | {"epochs": 2, "ema": 0.5}})
    whole = train(recipe, town, tmp_path / "run").model.state_dict()
    (tmp_path / "run/bundle.json").unlink()
    resumed = train(recipe, town, tmp_path / "run", resume=True).model.state_dict()
    plain = train(tiny_recipe(**EXACT | {"train": EXACT["train"] | {"epochs": 2}}), town, tmp_path / "plain")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], value) for name, value in plain.model.state_dict().items())
