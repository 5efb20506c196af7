"""Many photos in parts: by this process and by Ray the same bytes, whoever is killed."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import polars as pl
import pytest
from towns import make_town
from typer.testing import CliRunner

from graticule.cli import app
from graticule.errors import BadRecipeError
from graticule.inference.parts import Job, run

BUNDLE = Path(__file__).parent / "bundles" / "format-2"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    town = make_town(tmp_path_factory.mktemp("town"), count=40)
    (town.root / "007.jpg").write_bytes(b"no photo")
    return town.paths()


def parts_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.parquet"))}


def job(out, kind="answers", **settings):
    return Job(str(BUNDLE), kind, str(out), **settings)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "parts"
    assert run(job(out), photos, part=5) == (40, 1)
    return parts_of(out)


def test_a_job_that_was_stopped_makes_the_parts_that_are_missing(photos, whole, tmp_path):
    assert run(job(tmp_path / "parts"), photos, part=5) == (40, 1)
    for number in (2, 6):
        (tmp_path / f"parts/part-{number:06}.parquet").unlink()
    assert run(job(tmp_path / "parts"), photos, part=5) == (10, 0)
    assert parts_of(tmp_path / "parts") == whole
    table = pl.concat([pl.read_parquet(path) for path in sorted((tmp_path / "parts").glob("*.parquet"))])
    assert table["photo"].to_list() == [str(photo) for photo in photos]
    assert table.filter(pl.col("error").is_not_null())["photo"].to_list() == [str(photos[7])]


def test_a_folder_of_another_job_is_left_alone(photos, tmp_path):
    run(job(tmp_path / "parts"), photos[:2], part=5)
    with pytest.raises(BadRecipeError, match=r"parts of another job \(other: kind\)"):
        run(job(tmp_path / "parts", "features"), photos[:2], part=5)
    with pytest.raises(BadRecipeError, match=r"\(other: photos\)"):
        run(job(tmp_path / "parts"), photos[:3], part=5)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").touch()
    with pytest.raises(BadRecipeError, match="is not empty and holds no parts"):
        run(job(tmp_path / "mine"), photos[:2])


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
        run(job(tmp_path / "parts"), photos, "ray")


def test_two_nodes_of_ray_give_the_same_bytes_though_one_is_killed_in_the_middle(photos, whole, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0} | here)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        killing = threading.Thread(target=kill_when, args=(tmp_path / "parts", 2, cluster, nodes[0]))
        killing.start()
        assert run(job(tmp_path / "parts"), photos, "ray", part=5) == (40, 1)
        killing.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert parts_of(tmp_path / "parts") == whole


def kill_when(folder, parts, cluster, node):
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.parquet"))) < parts and time.monotonic() < deadline:
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)


def test_a_job_killed_by_the_system_goes_on_to_the_same_bytes(photos, whole, tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_parts import job;"
        "from graticule.inference.parts import run; run(job(sys.argv[2]), [Path(p) for p in sys.argv[3:]], part=5)"
    )
    out = tmp_path / "parts"
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(out), *map(str, photos)]
    killed = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not list(out.glob("*.parquet")) and killed.poll() is None:
        time.sleep(0.005)
    killed.kill()
    killed.wait()
    run(job(out), photos, part=5)
    assert parts_of(out) == whole
