"""Bundles on the hub, against the stand-in on this machine."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, serve
from test_cli import graticule

import graticule as package
from graticule.errors import BundleError, SourceError, WriteError
from graticule.inference.bundles import find_bundle
from graticule.photos.cards import write_card
from graticule.sources.web.hub import hub_file

KEPT = Path(__file__).parent / "bundles" / "format-3"
PHOTO = KEPT / "photo.jpg"


@pytest.fixture
def bundle(tmp_path):
    """A calibrated bundle with a card, and with the table of its photos beside it."""
    shutil.copytree(KEPT, tmp_path / "bundle")
    write_card(tmp_path / "bundle")
    (tmp_path / "bundle" / "training").mkdir()
    (tmp_path / "bundle" / "training" / "history.csv").touch()
    return tmp_path / "bundle"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    with serve("ada/town", tmp_path / "hub", monkeypatch, tmp_path / "cache", kind="model") as sent:
        yield tmp_path / "hub", sent


def test_a_bundle_goes_to_the_hub_and_answers_from_there_the_same(bundle, hub):
    folder, sent = hub
    done = graticule("push", bundle, "ada/town")
    assert done.returncode == 0, done.stderr
    assert "known.safetensors goes along" in done.stdout
    names = {path.name for path in folder.iterdir()}
    assert {"weights.safetensors", "cells.parquet", "recipe.yaml", "bundle.json", "README.md"} <= names
    assert not names & {"training", "history.csv", "photo.jpg"}  # the table of photos stays at home
    expected = package.load(bundle).locate(PHOTO)
    assert package.load("ada/town").locate(PHOTO) == expected
    before = dict(sent)
    told = graticule("predict", "ada/town", PHOTO)
    assert told.returncode == 0, told.stderr
    assert find_bundle(f"ada/town@{COMMIT}").name == COMMIT
    assert sent == before  # what is there is not fetched again


def test_what_is_there_answers_without_a_network(bundle, hub, monkeypatch):
    graticule("push", bundle, "ada/town")
    package.load("ada/town")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert package.load("ada/town").bundle.confidence


def test_a_bundle_changed_on_the_hub_is_refused(bundle, hub):
    graticule("push", bundle, "ada/town")
    weights = hub[0] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="is not the file that training wrote"):
        package.load("ada/town")


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    whole = np.random.default_rng(0).bytes(30_000)
    (tmp_path / "files" / "model.safetensors").write_bytes(whole)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    cut = {"model.safetensors": 20_000}
    with serve("ada/town", tmp_path / "files", monkeypatch, tmp_path / "cache", "model", cut) as sent:
        path = hub_file("ada/town", "model.safetensors", kind="model")
    assert path.read_bytes() == whole
    assert sent["model.safetensors"] == 30_000
    blob = path.resolve()  # as where the whole run was killed
    path.unlink()
    blob.rename(blob.with_name(f"{blob.name}.part")).write_bytes(whole[:20_000])
    with serve("ada/town", tmp_path / "files", monkeypatch, tmp_path / "cache", "model") as sent:
        assert hub_file("ada/town", "model.safetensors", kind="model").read_bytes() == whole
    assert sent["model.safetensors"] == 10_000


def test_a_full_disk_is_not_blamed_on_the_network(monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WriteError, match="no space left on the disk while writing what the hub sends"):
        hub_file("ada/town", "model.safetensors", kind="model")


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits to try again"))
    with pytest.raises(SourceError, match="could not be fetched from the hub, which does not answer"):
        hub_file("ada/town", "model.safetensors", kind="model")


def test_no_such_model_no_token_and_no_name_are_said(bundle, hub, monkeypatch, tmp_path):
    with pytest.raises(SourceError, match="the model eve/town could not be fetched"):
        package.load("eve/town")
    assert "give user/name" in graticule("push", bundle, "town").stderr
    assert "the model eve/town could not be put on the hub" in graticule("push", bundle, "eve/town").stderr
    (tmp_path / "ada").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(find_bundle("ada/town")) == "ada/town"  # a folder of that name comes first, even one that lacks it
    said = graticule("calibrate", "eve/town", tmp_path / "t.csv")
    assert said.returncode == 1
