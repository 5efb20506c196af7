"""Many photos in parts: by this process and by Ray the same bytes, whoever is killed."""

import shutil
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from processes import ended, start
from test_docs import commands
from towns import make_town
from typer.testing import CliRunner

from graticule.cli import app
from graticule.errors import BadRecipeError
from graticule.inference.parts import PhotoJob
from graticule.parts import Folder

BUNDLE = Path(__file__).parent / "bundles" / "format-2"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    town = make_town(tmp_path_factory.mktemp("town"), count=40)
    (town.root / "007.jpg").write_bytes(b"no photo")
    return town.paths()


def parts_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.parquet"))}


def make(out, photos, kind="answers", engine="here"):
    return Folder(Path(out), PhotoJob(str(BUNDLE), kind), photos, part=5).make(engine)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "parts"
    assert make(out, photos) == (40, 1)
    return parts_of(out)


def test_a_job_that_was_stopped_makes_the_parts_that_are_missing(photos, whole, tmp_path):
    assert make(tmp_path / "parts", photos) == (40, 1)
    for number in (2, 6):
        (tmp_path / f"parts/part-{number:06}.parquet").unlink()
    assert make(tmp_path / "parts", photos) == (10, 0)
    assert parts_of(tmp_path / "parts") == whole
    table = pl.concat([pl.read_parquet(path) for path in sorted((tmp_path / "parts").glob("*.parquet"))])
    assert table["photo"].to_list() == [str(photo) for photo in photos]
    assert table.filter(pl.col("error").is_not_null())["photo"].to_list() == [str(photos[7])]


def test_a_folder_of_another_job_is_left_alone(photos, tmp_path):
    make(tmp_path / "parts", photos[:2])
    with pytest.raises(BadRecipeError, match=r"parts of another job \(other: kind\)"):
        make(tmp_path / "parts", photos[:2], "features")
    with pytest.raises(BadRecipeError, match=r"\(other: photos\)"):
        make(tmp_path / "parts", photos[:3])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(BadRecipeError, match="is not empty and holds no parts"):
        make(tmp_path / "mine", photos[:2])


def test_the_command_writes_parts_and_says_which_photos_are_broken(photos, tmp_path):
    command = ["predict", str(BUNDLE), *map(str, photos[5:9]), "--engine", "here", "--part", "2"]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "parts")])
    assert done.exit_code == 1
    assert "3 photos, written to" in done.output
    assert len(parts_of(tmp_path / "parts")) == 2
    assert isinstance(CliRunner().invoke(app, command).exception, BadRecipeError)
    refused = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "b"), "--together", "place"])
    assert "without --together" in str(refused.exception)


def test_an_engine_that_is_not_installed_says_what_to_install(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BadRecipeError, match=r"pip install 'graticule\[ray\]'"):
        make(tmp_path / "parts", photos, engine="ray")


def test_a_job_killed_by_the_system_goes_on_to_the_same_bytes(photos, whole, tmp_path):
    out = tmp_path / "parts"
    killed = start(make, out, photos, said=tmp_path / "said.txt")
    while not list(out.glob("*.parquet")) and killed.exitcode is None:
        time.sleep(0.005)
    killed.kill()
    ended(killed)
    make(out, photos)
    assert parts_of(out) == whole


# The commands of docs/cluster.md, as they stand on the page, where "runs/dc" and "photos" lie.


@pytest.fixture
def folder(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLE, "runs/dc")
    shutil.copytree(photos[0].parent, "photos")
    town = pl.read_csv("photos/table.csv")
    Path("city").mkdir()
    town.with_columns(path="../photos/" + pl.col("path"), split=pl.lit("test")).write_parquet("city/photos.parquet")
    Path("city/dataset.json").write_text("{}")
    Path("points").mkdir()
    for name in ("a", "b"):
        pl.concat([town.select("lat", "lon")] * 50).write_parquet(f"points/{name}.parquet")
    return tmp_path


def ask(*words, status=0):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == status, (words, done.output, done.exception)


def test_the_commands_of_the_page_run_as_they_stand(folder):
    for package in ("onnx", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    Path("photos/007.jpg").unlink()
    for words in commands("docs/cluster.md"):
        if words[0] != "train" and "ray" not in words:
            ask(*words)
    assert len(pl.read_parquet("answers/*.parquet")) == 39
    assert len(list(Path("runs/dc/exported").iterdir())) == 2


def test_two_nodes_of_ray_give_the_same_bytes_though_one_is_killed_in_the_middle(folder, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ask("predict", "runs/dc", "photos", "--engine", "here", "--out", "whole", "--part", "5", status=1)
    here = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False} | here)
    node = cluster.add_node(**here)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        killing = threading.Thread(target=kill_when, args=(folder / "answers", 2, cluster, node))
        killing.start()
        for words in commands("docs/cluster.md"):
            if "ray" in words:
                more = {"pack": ["--shard-mb", "0.02"], "cells": []}.get(words[words[0] == "data"], ["--part", "5"])
                broken = int(words[0] in ("predict", "features"))
                ask(*({"4": "1"}.get(word, word) for word in words), *more, status=broken)
        killing.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert parts_of("answers") == parts_of("whole")
    assert len(pl.read_parquet("features/*.parquet")) == 40
    ask("data", "check", "city", "--out", "checked")
    ask("data", "pack", "city", "whole/packed", "--shard-mb", "0.02")
    ask("cells", "points", "--out", "whole.parquet")
    assert files_of("city/check") == files_of("checked")
    assert files_of("packed") == files_of("whole/packed")
    assert Path("cells.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert pl.read_parquet("checked/checks.parquet")["error"].count() == 1


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def kill_when(folder, parts, cluster, node):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.parquet"))) < parts and time.monotonic() < deadline:
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
