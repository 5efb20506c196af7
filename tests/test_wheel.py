"""The wheel works outside of the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """What a wheel of this checkout holds."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
    ]
    # A copy: setuptools leaves a folder `build` beside what it builds.
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=CHECKOUT,
                           capture_output=True, text=True, check=True).stdout.split("\0")  # fmt: skip
    page = [
        str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "graticule/serving/page").rglob("*")
    ]  # git ignores it
    for name in filter(None, [*files, *page]):
        if (CHECKOUT / name).is_file() and (
            name.startswith("graticule/") or name in ("pyproject.toml", "README.md", "LICENSE")
        ):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((CHECKOUT / name).read_bytes())
    subprocess.run([*command, str(folder), str(folder / "source")], check=True)
    [wheel] = folder.glob("graticule-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_recipes_assets_the_page_and_the_mark_of_types(unpacked):
    for pattern in ("recipes/*.yaml", "assets/*", "py.typed", "**/*.py", "serving/page/**/*"):
        here = {path.relative_to(CHECKOUT) for path in (CHECKOUT / "graticule").glob(pattern)}
        there = {path.relative_to(unpacked) for path in (unpacked / "graticule").glob(pattern)}
        assert here == there, pattern


def test_recipes_are_found_from_the_wheel_wherever_one_stands(unpacked, tmp_path):
    code = (
        "import graticule; print(graticule.__file__); from pathlib import Path;"
        "from graticule.config import read_recipe; assert read_recipe(Path('demo')).name == 'demo';"
        "from graticule.cli import main; main()"
    )
    run = [sys.executable, "-c", code, "recipes"]
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(unpacked))
    assert " laptop " in done.stdout
