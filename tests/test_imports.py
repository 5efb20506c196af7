"""The floors of the house: a room imports only from floors below its own."""

import ast
import subprocess
import sys
from pathlib import Path

import graticule

FLOORS = [
    {"errors"},
    {"files", "geo", "config", "borders", "shards"},
    {"s2", "metrics", "images", "cards", "schedules"},
    {"photos", "times"},
    {"partition"},
    {"splits", "score", "decode", "albums", "gallery", "maps", "sources", "preprocess", "tracks", "lookalikes"},
    {"model", "audit", "quality"},
    {"data", "bundle", "sheets"},
    {"locate"},
    {"fitting", "formats"},
    {"train"},
    {"compare", "figures", "explain"},
    {"evaluate"},
    {"sweep", "tables", "pages", "heatmaps"},
    {"report", "audit_page", "explained"},
    {"cli"},
]
TORCH_ROOMS = {"preprocess", "model", "data", "bundle", "locate", "fitting", "train", "evaluate", "explain", "sweep"}
FLOOR_OF = {name: n for n, floor in enumerate(FLOORS) for name in floor}
PACKAGE = Path(graticule.__file__).parent


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from names


def test_every_room_has_a_floor():
    assert {room_of(path) for path in SOURCES} == FLOOR_OF.keys()


def test_imports_only_go_down():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in SOURCES
        for name in imported_by(path)
        if name.startswith("graticule.")
        and name.split(".")[1] != room_of(path)
        and FLOOR_OF.get(name.split(".")[1], -1) >= FLOOR_OF[room_of(path)]
    ]
    assert wrong == []


def test_only_the_rooms_with_a_model_import_torch():
    guilty = {
        room_of(path)
        for path in SOURCES
        for name in imported_by(path)
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
