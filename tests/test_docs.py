"""The papers around the code name what is there."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

HOUSE = Path(__file__).parents[1]


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
