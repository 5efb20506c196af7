"""The floors of the house: a room imports only from floors below its own."""

import subprocess
import sys
from pathlib import Path

import floors
import pytest

KEPT = Path(__file__).parent / "bundles" / "format-2"
TORCH_ROOMS = {"model", "zoo", "inference", "training", "evaluation", "explaining"}


def test_every_room_has_a_floor():
    assert {floors.room_of(floors.module_of(path)) for path in floors.sources()} == floors.FLOOR_OF.keys()


def test_imports_only_go_down():
    wrong = [
        f"{floors.module_of(path)} imports {other}"
        for path in floors.sources()
        for other in floors.rooms_imported_by(path)
        if floors.FLOOR_OF[other] >= floors.FLOOR_OF[floors.room_of(floors.module_of(path))]
    ]
    assert wrong == []


def test_the_page_shows_the_floors_of_this_code():
    page = floors.PAGE.read_text(encoding="utf-8")
    assert page == floors.written(page), "run `make floors`"


def test_a_module_of_a_package_may_stand_on_its_own_floor(monkeypatch):
    monkeypatch.setattr(floors, "FLOOR_OF", {"sources": 1, "sources.http": 0})
    assert floors.room_of("sources.http.get") == "sources.http"
    assert floors.room_of("sources.city") == "sources"
    assert floors.room_of("polite") is None


def test_only_the_rooms_with_a_model_import_torch():
    guilty = {
        floors.room_of(floors.module_of(path))
        for path in floors.sources()
        for name in floors.imported_by(path)
        if name.split(".")[0] in {"torch", "torchvision", "timm", "lightning"}
    }
    assert guilty <= TORCH_ROOMS


def test_the_command_line_answers_help_without_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from graticule.cli import app;"
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0, result.output;"
        "print([m for m in ('torch', 'polars', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_question_imports_nothing_that_only_training_and_reports_need():
    code = (
        f"import sys, graticule; graticule.load({str(KEPT)!r}).locate({str(KEPT / 'photo.jpg')!r});"
        "print([m for m in ('lightning', 'torchmetrics', 'matplotlib', 'captum', 'sklearn', 'scipy', 'pandas')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "demo", "--photos", "nowhere", "--out", "x"],
        ["train", "demo", "--photos", "t.csv", "--out", "taken"],
        ["evaluate", "nowhere", "t.csv"],
        ["predict", "nowhere", "a.jpg"],
    ],
)
def test_a_simple_mistake_is_said_before_torch_is_loaded(tmp_path, command):
    (tmp_path / "t.csv").write_text("path,lat,lon\na.jpg,1,2\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").touch()
    code = (
        "import sys; from typer.testing import CliRunner; from graticule.cli import app;"
        "result = CliRunner().invoke(app, sys.argv[1:]); print(type(result.exception).__name__, 'torch' in sys.modules)"
    )
    run = [sys.executable, "-c", code, *command]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
    error, loaded = done.stdout.split()
    assert error in {"BadTableError", "BadRecipeError", "BundleError"}
    assert loaded == "False"
