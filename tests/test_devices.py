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
from processes import command, ended, start
from test_docs import lines
from torch.distributed.run import main as torchrun
from towns import make_town, tiny_recipe

from graticule.config import read_recipe
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


# What srun of SLURM 22.05 tells a task; under ``salloc`` the name of the job is another.
SRUN = {
    "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "interactive", "SLURM_NODELIST": "node[1-2]", "SLURM_NNODES": "2",
    "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "2",
}  # fmt: skip


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town"), count=72)


@pytest.fixture(scope="module")
def alone(town, tmp_path_factory):
    """The run by one process; its recipe and folder."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(**EXACT).model_dump(mode="json")))
    train(tiny_recipe(**EXACT), town, folder)
    return recipe, folder


def page_lines(program, **of_page):
    """The words after it of each training on docs/cluster.md that a program starts, with some of them put in place."""
    found = [[*start, *words][1:] for start, words in lines("docs/cluster.md") if start[0] == program]
    return [[str(of_page.get(word, word)) for word in line] for line in found if "train" in line]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def assert_one_run(folder, alone, said):
    """One process wrote and spoke; the losses and the weights are those of a single process."""
    recipe, one = alone
    assert sum(path.read_text().count("trained on") for path in said) == 1
    assert names_in(folder) == names_in(one)
    columns = ("epoch", "train_loss", "val_loss")
    history = [pl.read_csv(each / "training/history.csv").select(columns) for each in (one, folder)]
    assert history[0]["epoch"].to_list() == history[1]["epoch"].to_list() == list(range(1, 7))
    np.testing.assert_allclose(history[1].to_numpy(), history[0].to_numpy(), rtol=1e-3)
    start_weights = build_geolocator(read_recipe(recipe), 4).state_dict()
    ours, theirs = (Bundle.read(each).model.state_dict() for each in (folder, one))
    moved = torch.cat([(w - start_weights[name]).flatten() for name, w in theirs.items()])
    apart = torch.cat([(w - ours[name]).flatten() for name, w in theirs.items()])
    assert apart.norm() < 2e-3 * moved.norm()


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def wait_for_checkpoint(folder, process):
    deadline = time.monotonic() + 120
    while not (folder / "training/checkpoints/last.ckpt").exists() and process.exitcode is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_learn_what_one_does_and_go_on_after_one_of_them_was_killed(town, alone, tmp_path):
    saying, out = [tmp_path / f"said-{rank}.txt" for rank in (0, 1)], tmp_path / "two"
    place = {"washington-dc": alone[0], "city": town.root / "table.csv", "runs/dc": out}
    run = command(*page_lines("graticule", **place, **{"4": 2})[0], said=saying[0])  # Lightning starts the second one
    wait_for_checkpoint(out, run)
    [second] = [child for child in psutil.Process(run.pid).children() if "train" in child.cmdline()]
    second.kill()
    said = saying[0].read_text() if ended(run) == 1 else pytest.fail(saying[0].read_text())
    assert "another process of this run has ended or never came" in said
    assert "Traceback" not in said
    assert not (out / "bundle.json").exists()
    # As two tasks of srun, which share the folders. Its node1 is no name on this machine.
    [line] = page_lines("srun", **place, **{"4": 1})
    told = SRUN | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in (0, 1)]
    tasks = [command(*line[line.index("train") :], said=saying[i], **told, **ranks[i]) for i in (0, 1)]
    assert [ended(task) for task in tasks] == [0, 0], [path.read_text() for path in saying]
    assert [path.read_text().count("trained on") for path in saying] == [1, 0]  # one process speaks
    assert_one_run(out, alone, saying)


def test_two_machines_of_torchrun_make_one_run(town, alone, tmp_path):
    saying, out = [tmp_path / f"said-{rank}.txt" for rank in (0, 1)], tmp_path / "run"
    place = {"washington-dc": alone[0], "city": town.root / "table.csv", "runs/dc": out, "4": 1}
    # Two times the program ``torchrun``, each of which starts ``python -m graticule.cli``.
    [line] = page_lines("torchrun", **place, **{"first:29500": f"127.0.0.1:{free_port()}"})
    agents = [start(torchrun, line, said=said) for said in saying]
    assert [ended(agent) for agent in agents] == [0, 0], [path.read_text() for path in saying]
    assert_one_run(out, alone, saying)


def test_a_machine_that_is_told_to_stop_ends_and_the_other_one_with_it(town, alone, tmp_path):
    saying, out = [tmp_path / f"said-{rank}.txt" for rank in (0, 1)], tmp_path / "run"
    place = {"washington-dc": alone[0], "city": town.root / "table.csv", "runs/dc": out, "4": 1}
    line = page_lines("graticule", **place)[1]
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    machines = [command(*line, said=saying[rank], NODE_RANK=str(rank), **told) for rank in (0, 1)]
    wait_for_checkpoint(out, machines[0])
    machines[1].terminate()
    assert [ended(machine, 60) for machine in machines] == [1, 130], [path.read_text() for path in saying]
    assert "another process of this run has ended or never came" in saying[0].read_text()


def test_processes_that_do_not_know_of_each_other_are_told_how_to_start(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(DeviceError, match="nobody said which machine this is; start it by torchrun or by srun"):
        Machines(devices=1, nodes=2).check(16, 1, frozen=False)
    monkeypatch.setattr(os, "environ", SRUN)
    Machines(devices=1, nodes=2).check(16, 1, frozen=False)
    with pytest.raises(
        DeviceError, match="--nodes 2 and --ntasks-per-node 1, and graticule of --nodes 1 and --devices 2"
    ):
        Machines(devices=2).check(16, 1, frozen=False)
    assert not Machines().by_srun  # side by side, each a run of its own
    batch = {name: value for name, value in SRUN.items() if "STEP" not in name}  # a script, not started by srun
    monkeypatch.setattr(os, "environ", batch)
    assert not Machines(devices=2).by_srun
    assert type(Machines(devices=2).launcher()).__name__ == "LightningEnvironment"


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
