"""The machine decides no result: not its instruction set, its locale, nor its time zone."""

import ast
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

import graticule
from graticule.config import Recipe
from graticule.sources.web import http
from graticule.training.loop import precision

PACKAGE = Path(graticule.__file__).parent
# What such a call leaves to the machine unless it is told: an encoding, a time zone, an order.
CLOCKS = {"today", "utcnow", "utcfromtimestamp", "localtime"}
LISTINGS = {"listdir", "scandir"}


def calls():
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                yield f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}", name, node


def test_no_text_is_read_or_written_in_the_encoding_of_the_locale():
    wrong = [
        where
        for where, name, node in calls()
        if name in {"read_text", "write_text"}
        and isinstance(node.func, ast.Attribute)  # files.write_text is UTF-8 by itself
        and not any(word.arg == "encoding" for word in node.keywords)
    ]
    assert wrong == []


def test_no_time_is_that_of_the_machines_own_zone_and_no_listing_comes_in_the_file_systems_order():
    naive = [where for where, name, node in calls() if name in {"now", "fromtimestamp"} and no_zone(name, node)]
    assert naive + [where for where, name, _ in calls() if name in CLOCKS | LISTINGS] == []


def no_zone(name, node):
    given = [*node.args, *(word.value for word in node.keywords if word.arg in {"tz", "tzinfo"})]
    return len(given) < (1 if name == "now" else 2) or any(isinstance(part, ast.IfExp) for part in given)


@pytest.mark.parametrize("native", [False, True])
def test_the_instruction_set_of_a_cpu_does_not_choose_the_arithmetic_of_training(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert precision(Recipe()) == "32-true"
    assert precision(Recipe.model_validate({"train": {"precision": "bfloat16"}})) == "bf16-mixed"


def test_a_recipe_is_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes("name: Zürich\n".encode())
    code = (
        "import sys; from pathlib import Path; from graticule.config import read_recipe;"
        "print(ascii(read_recipe(Path(sys.argv[1])).name))"
    )
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "recipe.yaml")], env=plain, capture_output=True, text=True
    )
    assert done.stdout.strip() == ascii("Zürich"), done.stderr


def test_a_date_without_a_zone_to_try_again_at_is_utc(monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    soon = datetime.now(UTC) + timedelta(seconds=100)
    try:
        assert http._retry_after(f"{soon:%a, %d %b %Y %H:%M:%S} -0000") == pytest.approx(100, abs=5)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_no_join_that_keeps_the_left_rows_leaves_their_order_to_the_library():
    wrong = []
    for where, name, node in calls():
        given = {word.arg: word.value for word in node.keywords}
        how = ast.unparse(given["how"]) if "how" in given else ""
        if name == "join" and "left" in how and "maintain_order" not in given:
            wrong.append(where)
    assert wrong == []
