"""A full disk and Ctrl-C in the middle of every command: one line, and nothing half-written."""

import errno
import os
import shutil
import subprocess
import sys

import polars as pl
import pytest
from conftest import encoded, picture
from test_cli import graticule, write_recipe
from test_video import gpx, video
from towns import make_town

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
    make_town(folder / "photos", count=24)
    recipe = write_recipe(folder / "r.yaml", cells={"split_above": 8, "drop_below": 1}, train={"epochs": 1},
                          split={"by": "random", "val": 0, "test": 0.3})  # fmt: skip
    for command in (
        ("data", "table", folder / "photos/table.csv", folder / "town"),
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
    "data panoramas": "data panoramas {shop}/globes/t.csv {out}/p --size 64x64 --headings 0,180",
    "data video": "data video {shop}/videos {out}/v --every-m 40",
    "features": "features {shop}/bundle {shop}/photos/000.jpg --out {out}/f.parquet",
    "export": "export {shop}/copied",
}


# Several writes, and a run again takes it up.
GO_ON = {"data table", "data panoramas", "data video", "data city", "data check", "data pack", "train"}


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
        ):
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
