"""A full disk and Ctrl-C in the middle of every command: one line, and nothing half-written."""

import errno
import os
import shutil
import subprocess
import sys
from functools import wraps

import polars as pl
import pytest
import timm
import torch
import typer
from conftest import encoded, exif_of, picture
from safetensors.torch import save_file
from test_cli import graticule, write_recipe
from test_video import gpx, video
from towns import make_town

from graticule import cli
from graticule.reporting import figures

WHEN = {"writing": 0, "left": 0, "error": None, "under": "/nowhere"}


def _hook(event, args):
    """Opening a file to write, below one folder, fails the n-th time; such a hook cannot be taken away again."""
    if event != "open" or WHEN["under"] == "/nowhere":
        return
    path, mode, flags = args
    writes = (mode and set(mode) & set("wax+")) or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
    if not writes or not str(os.fsdecode(path) if isinstance(path, bytes) else path).startswith(WHEN["under"]):
        return
    WHEN["writing"] += 1
    if WHEN["writing"] == WHEN["left"]:
        raise WHEN["error"]


sys.addaudithook(_hook)


def failing(folder, nth, error, command):
    """Run a command whose n-th opening of a file to write below a folder fails; and how many there were."""
    WHEN.update(writing=0, left=nth, error=error, under=str(folder))
    try:
        return graticule(*command), WHEN["writing"]
    finally:
        WHEN["under"] = "/nowhere"


@pytest.fixture(scope="module", autouse=True)
def small_figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "DPI", 20)
        yield


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("accidents")
    make_town(folder / "photos", count=32)
    (folder / "located").mkdir()
    for i in range(2):
        data = encoded(picture(64, 48, seed=i), exif=exif_of(10.0 + i, 20.0))
        (folder / f"located/{i}.jpg").write_bytes(data)
    (folder / "im2gps.csv").write_text("IMG_ID,lat,lon\n" + "".join(f"{i:03}.jpg,38.9{i:02},-77\n" for i in range(12)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(timm.create_model("test_efficientnet").state_dict(), folder / "weights.safetensors")
    recipe = write_recipe(folder / "r.yaml", cells={"split_above": 8, "drop_below": 1}, train={"epochs": 1},
                          split={"by": "random", "val": 0, "test": 0.3})  # fmt: skip
    frozen = ("encoder.frozen=true", f"encoder.weights={folder / 'weights.safetensors'}", "split.test=0")
    for command in (
        ("data", "table", folder / "photos/table.csv", folder / "town"),
        ("train", recipe, "--photos", folder / "town", "--out", folder / "frozen",
         *(word for each in frozen for word in ("--set", each))),
        ("train", recipe, "--photos", folder / "town", "--out", folder / "bundle"),
        ("evaluate", folder / "bundle", folder / "town", "--allow-leak"),
        ("crossval", recipe, "--photos", folder / "town", "--folds", 2, "--group", "place", "--out", folder / "runs/a"),
    ):  # fmt: skip
        done = graticule(*command)
        assert done.returncode == 0, done.stderr
    for name in ("own", "mine"):
        graticule("data", "table", folder / "photos/table.csv", folder / name)
    shutil.copytree(folder / "bundle", folder / "copied")
    (folder / "globes").mkdir()
    (folder / "globes/a.jpg").write_bytes(encoded(picture(256, 128)))
    (folder / "globes/t.csv").write_text("path,lat,lon\na.jpg,47.5,8.0\n")
    gpx(video(folder / "videos/a.mp4").with_suffix(".gpx"))
    rows = {"lat": [1.0, 2.0], "lon": [1.0, 2.0], "predicted_lat": [1.0, 2.5], "predicted_lon": [1.0, 2.0]}
    pl.DataFrame(rows).write_csv(folder / "p.csv")
    return folder


COMMANDS = {
    "data table": "data table {shop}/photos/table.csv {out}/t",
    "data city": "data city {out}/c --frames 4 --drives 1 --size-km 0.3",
    "data split": "data split {shop}/town --by sequence --out {out}/s.csv",
    "data sequences": "data sequences {shop}/town --force --out {out}/s.parquet",
    "data check": "data check {shop}/town --out {out}/check",
    "data audit": "data audit {shop}/town {shop}/own --out {out}/audit",
    "data pack": "data pack {shop}/town {out}/packed",
    "cells": "cells {shop}/town --split-above 8 --out {out}/c.parquet --plot {out}/c.png",
    "score": "score {shop}/p.csv --out {out}/e.parquet",
    "train": "train {shop}/r.yaml --photos {shop}/town --out {out}/b",
    "evaluate": "evaluate {shop}/bundle {shop}/town --allow-leak --out {out}/e",
    "crossval": "crossval {shop}/r.yaml --photos {shop}/town --folds 2 --group sequence --out {out}/x",
    "report": "report {shop}/bundle --photos {shop}/town --out {out}/r.html",
    "predict": "predict {shop}/bundle {shop}/photos/000.jpg --format csv --out {out}/p.csv",
    "locate": "locate {shop}/photos/000.jpg --model {shop}/bundle --out {out}/p.txt",
    "explain": "explain {shop}/bundle {shop}/photos/000.jpg --method saliency --no-score --out {out}/e",
    "table": "table runs --runs {shop}/runs --out {out}/t.md",
    "card": "card {shop}/mine",
    "data folder": "data folder {shop}/located {out}/f",
    "data im2gps": "data im2gps {out}/i --images {shop}/photos --table {shop}/im2gps.csv",
    "benchmark": "benchmark {shop}/bundle im2gps --images {shop}/photos --table {shop}/im2gps.csv --out {out}/bm "
    "--allow-leak",
    "calibrate": "calibrate {shop}/bundle {shop}/town --allow-leak --out {out}/b",
    "gallery add": "gallery add {shop}/frozen {shop}/town --out {out}/g",
    "locate --page": "locate {shop}/photos/000.jpg --model {shop}/bundle --page {out}/p.html",
    "locate --map": "locate {shop}/photos/000.jpg --model {shop}/bundle --map {out}/m.html",
    "leak": "leak {shop}/r.yaml --photos {shop}/town --by random --by place --out {out}/l.json",
    "sweep": "sweep {shop}/r.yaml --photos {shop}/town --vary seed=0 --out {out}/s",
    "ablate": "ablate {shop}/r.yaml --photos {shop}/town --switch train.lr=0.02 --seeds 1 --folds 2 --out {out}/a",
    "start": "start {shop}/photos/table.csv {out}/st --recipe {shop}/r.yaml --try train.lr=0.02",
    "data panoramas": "data panoramas {shop}/globes/t.csv {out}/p --size 64x64 --headings 0,180",
    "data video": "data video {shop}/videos {out}/v --every-m 40",
    "features": "features {shop}/bundle {shop}/photos/000.jpg --out {out}/f.parquet",
    "export": "export {shop}/copied",
}


ELSEWHERE = {  # writing commands whose sources are servers or large files that other tests stand in for
    "data mapillary": "test_fetch", "data kartaview": "test_fetch", "data streetscapes": "test_fetch",
    "data osv5m": "test_osv5m", "data osv-mini": "test_osv5m", "data im2gps3k": "as data im2gps",
    "data yfcc4k": "as data im2gps", "get": "test_zoo", "push": "test_hub_models", "join": "test_together",
    "gallery thumbnails": "as gallery add",
}  # fmt: skip
WRITE_NOTHING = {"recipes", "models", "cache", "serve"}


def every_command(app=cli.app, before=""):
    for info in app.registered_commands:
        yield f"{before}{info.name or info.callback.__name__.replace('_', '-')}", info
    for group in app.registered_groups:
        yield from every_command(group.typer_instance, f"{before}{group.name} " if group.name else before)


EVERY = dict(every_command())


def words_for(name):
    """A command with the least that it asks for, so that its own code is reached."""
    command = typer.main.get_command(cli.app)
    for word in name.split():
        command = command.commands[word]
    words = name.split()
    for each in command.params:
        if each.required:
            words += [each.opts[0]] if each.param_type_name == "option" else []
            words += [{"name": "im2gps", "layout": "runs"}.get(each.name, "x")]
    return words


def test_every_command_is_known_here():
    tried = {name.partition(" --")[0] for name in COMMANDS}
    assert sorted(EVERY) == sorted([*tried, *ELSEWHERE, *WRITE_NOTHING])


@pytest.mark.parametrize("name", EVERY)
def test_every_command_ends_in_one_line_whatever_stops_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = EVERY[name].callback
    for error, status, said in (
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/y"),
            1,
            "error: no space left on the disk while writing x/y",
        ),
        (OSError(errno.EROFS, "Read-only file system", "x/y"), 1, "error: x/y cannot be written"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, ""),  # `| head`
    ):

        @wraps(command)
        def stopped(*_, error=error, **__):
            raise error

        monkeypatch.setattr(EVERY[name], "callback", stopped)
        done = graticule(*words_for(name))
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (status, bool(said)), done.stderr
        assert "".join(lines).startswith(said)
        assert not list(tmp_path.iterdir())


# Several writes, and a run again takes it up.
SLOW = {"report", "leak"}  # their first write comes last
GO_ON = {"data folder", "data table", "data panoramas", "data video", "data city", "data check", "data pack", "train"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_write_that_fails_or_is_interrupted_is_one_line_and_leaves_nothing_half_written(shop, tmp_path, name):
    under = {"card": shop / "mine", "export": shop / "copied"}.get(name, tmp_path)

    def words(out):
        return COMMANDS[name].format(shop=shop, out=tmp_path / out).split()

    count = 1
    if name in GO_ON:
        whole, count = failing(under, 0, None, words("whole"))
        assert whole.returncode == 0, whole.stderr
    for nth in sorted({1, count // 2 + 1, count}):
        full = OSError(errno.ENOSPC, "No space left on device")
        for error, status, said in (
            (full, 1, "error: no space left on the disk"),
            (KeyboardInterrupt(), 130, "interrupted"),
        )[: 1 if name in SLOW else 2]:
            out = f"{nth}-{status}"
            done, _ = failing(under, nth, error, words(out))
            assert done.returncode == status, (nth, done.stderr)
            assert done.stderr.splitlines()[-1].startswith(said), (nth, done.stderr)
            assert not [path for path in under.rglob("*") if path.name.endswith(".part")]
        if name not in GO_ON:
            continue
        again, _ = failing(under, 0, None, words(out) + (["--resume"] if name == "train" else []))
        assert again.returncode == 0, (nth, again.stderr)


def test_a_second_command_into_one_folder_is_refused_while_the_first_writes(shop, tmp_path):
    code = (
        "import sys; from pathlib import Path; from graticule.files import claimed\n"
        "with claimed(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = ("data", "table", shop / "photos/table.csv", tmp_path / "t")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "t")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        second = graticule(*command)
        assert second.returncode == 1
        assert "another command is writing into" in second.stderr
        first.kill()  # one that dies lets go
    assert graticule(*command).returncode == 0
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [
        "README.md", "dataset.json", "photos.parquet", "refused.parquet",
    ]  # fmt: skip


def test_a_command_that_fails_leaves_no_empty_folder(tmp_path):
    assert graticule("data", "table", tmp_path / "none.csv", tmp_path / "t").returncode == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch, code):
    def refuse(self, *_, **__):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    for command in (("data", "city", tmp_path / "c"), ("data", "table", tmp_path / "t.csv", tmp_path / "t")):
        done = graticule(*command)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stderr.startswith("error: ")
