"""Whole files or none."""

import errno
import hashlib

import pytest

from graticule.errors import WriteError
from graticule.files import atomic_file, atomic_folder, claimed, sha256_of, write_bytes, write_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def half_write(atomic, error):
    with atomic as aside:
        (aside / "half" if aside.is_dir() else aside).write_text("half")
        raise error


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    target = tmp_path / "deep" / "file.txt"
    with atomic_file(target) as aside:
        aside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(type(error)):
        half_write(atomic_file(target), error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_replaces_the_old_one_whole_or_not_at_all(tmp_path):
    target = tmp_path / "folder"
    with atomic_folder(target) as aside:
        (aside / "one").write_text("1")
    with pytest.raises(RuntimeError):
        half_write(atomic_folder(target), RuntimeError())
    assert names(target) == ["one"]
    with atomic_folder(target) as aside:
        (aside / "two").write_text("2")
    assert names(target) == ["two"]
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_full_disk_is_said_in_words(tmp_path, atomic, code):
    with (
        pytest.raises(WriteError, match=r"no space left on the disk.*Free some space"),
        atomic(tmp_path / "x"),
    ):
        raise OSError(code, "full")
    assert names(tmp_path) == []


def test_a_half_written_file_on_a_full_disk_is_removed(tmp_path, full_disk):
    with pytest.raises(WriteError, match="nothing half-written was left"):
        write_bytes(tmp_path / "x", b"data" * 100)
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be_is_said_in_words(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OSError, match="x") as caught:
        write_text(tmp_path / "x" / "y", "")
    assert names(tmp_path) == ["x"]
    assert isinstance(caught.value, OSError)


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert names(tmp_path) == []
    write_json(tmp_path / "x.json", {"town": "Å"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "town": "Å"\n}\n'


def test_a_hash_is_that_of_the_bytes(tmp_path):
    write_bytes(tmp_path / "x", b"abc")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()


def test_who_has_a_folder_alone_removes_what_the_killed_left_half_written(tmp_path):
    (tmp_path / "data").mkdir()
    for name in (".a.parquet.17.part", "data/.b.parquet.4711.part", "mine.part", ".mine.part", "data/a.parquet"):
        (tmp_path / name).touch()
    (tmp_path / ".onnx.17.part").mkdir()
    (tmp_path / ".onnx.17.part/features.onnx").touch()
    with claimed(tmp_path):
        left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == [".mine.part", "a.parquet", "mine.part"]
    assert names(tmp_path) == [".mine.part", "data", "mine.part"]
