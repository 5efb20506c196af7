"""The papers around the code name what is there."""

import re
import shlex
import tomllib
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from graticule.cli import app
from graticule.config import parse_overrides, read_recipe

HOUSE = Path(__file__).parents[1]
PAGES = [
    *(
        f"docs/{name}.md"
        for name in (
            "train-on-my-town",
            "compare-two-recipes",
            "publish-a-bundle",
            "read-a-report",
            "cluster",
            "evidence",
        )
    ),
    "README.md",
]


def text_of(name):
    return (HOUSE / name).read_text(encoding="utf-8")


def test_the_citation_has_what_the_format_needs_and_the_version_of_the_package():
    citation, project = yaml.safe_load(text_of("CITATION.cff")), tomllib.loads(text_of("pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_files_that_contributing_names_exist():
    page = text_of("CONTRIBUTING.md")
    named = set(re.findall(r"(?:graticule|tests|tools|docs|\.ci)/[\w/.-]*\w", page))
    assert len(named) > 20
    assert sorted(name for name in named if not (HOUSE / name).exists()) == []


def test_the_targets_that_contributing_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    named = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", text_of("CONTRIBUTING.md"))
    assert {word for words in named for word in words.split()} <= targets


def test_the_hooks_before_a_commit_are_those_of_make_lint():
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", text_of("Makefile"), re.MULTILINE)[1]
    ours = {line.replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in lint.replace("\t", "").splitlines()}
    [local] = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert {hook["entry"] for hook in local["hooks"]} == ours


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_workflow_runs_what_we_run(version):
    job = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]["run"]
    assert version in job["strategy"]["matrix"]["python"]
    assert job["steps"][-1] == {"run": ".ci/run"}


# What starts graticule, such as ``graticule`` or ``torchrun ... -m graticule.cli``, and its own words.
LINE = re.compile(r"(?:\$ )?((?:(?:torchrun |srun |ray job submit |[A-Z_]+=).*)?\bgraticule(?:\.cli)?) (.+)")


def lines(page):
    """Of each line in the fenced blocks of a page that starts graticule: the words of what starts it, and its own."""
    for block in re.findall(r"^```\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if found := LINE.match(line):
                yield shlex.split(found[1]), shlex.split(found[2], comments=True)


def commands(page):
    """The words of each ``graticule ...`` in the fenced blocks of a page that nothing else starts."""
    return [words for start, words in lines(page) if start == ["graticule"]]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_are_those_of_the_command_line(page):
    found = [words for _, words in lines(page)]
    assert found
    for words in found:
        command, rest = typer.main.get_command(app), list(words)
        while hasattr(command, "commands"):
            assert set(rest[:1]) & command.commands.keys(), f"{page}: graticule {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        # Click's own parser: it refuses unknown options, wrong values, and arguments missing or too many.
        command.make_context("graticule", rest, resilient_parsing=False)


@pytest.mark.parametrize("page", PAGES)
def test_the_recipes_and_settings_of_a_page_are_valid(page):
    for _, words in lines(page):
        if words[0] in ("train", "crossval", "sweep", "leak"):
            given = [after for word, after in pairwise(words) if word in ("--set", "--vary")]
            read_recipe(Path(words[1]), parse_overrides([each.split(",")[0] for each in given]))


def test_every_page_is_in_the_table_of_contents_and_there():
    pages = re.findall(r": ([\w/-]+\.md)$", text_of("mkdocs.yml"), re.MULTILINE)
    docs = HOUSE / "docs"
    assert sorted(pages) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))


def test_every_module_of_the_reference_is_there():
    for page in (HOUSE / "docs" / "api").glob("*.md"):
        modules = re.findall(r"^::: (graticule[\w.]*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert modules, page.name
        assert [module for module in modules if not find_spec(module)] == []
