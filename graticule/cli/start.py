"""``graticule start``: from photos to a report in one command, each step printed as the command that it runs."""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from shlex import join, quote, split
from typing import Annotated, Any

import typer

from graticule.cli.console import counted
from graticule.cli.options import RECIPE, Sets
from graticule.errors import BadRecipeError, BadTableError, GraticuleError, NotFetchedError, WriteError
from graticule.files import write_json

app = typer.Typer()

PLAN = "start.json"
CANDIDATES = (  # frozen encoders and heads, what each changes in the recipe
    "encoder.name=tf_efficientnet_lite2",
    "encoder.name=tf_efficientnet_lite2 head.hidden=256",
    "encoder.name=mobilenetv2_100 encoder.weights=pretrained",
)
FOLDS = 5
LEAST = 10  # photos, below which a part of the split would be left without any


@app.command()
def start(
    photos: Annotated[
        Path, typer.Argument(help="A folder of photos with GPS, a table with path, lat, lon, a dataset.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for all that comes of it.")],
    recipe: Annotated[Path, typer.Option(help=RECIPE)] = Path("laptop"),
    candidates: Annotated[
        list[str] | None,
        typer.Option(
            "--try", help="Settings to try: 'encoder.name=resnet18 head.hidden=256'. Repeat. [default: three]"
        ),
    ] = None,
    max_refused: Annotated[float, typer.Option(min=0, max=1, help="As of `data folder`.")] = 0.5,
    settings: Sets = None,
) -> None:
    """Check, split, compare encoders and heads by folds, train the best, measure it, report. Run it again to go on."""
    from graticule.config import parse_overrides, read_recipe
    from graticule.photos.table import table_file

    if not photos.exists():
        raise BadTableError(f"there is no {photos}; give a folder of photos, a table with path, lat, lon, or a dataset")
    source = "folder" if photos.is_dir() and not (photos / "dataset.json").is_file() else "table"
    if source == "table":
        table_file(photos)
    tried = [split(words) for words in candidates or CANDIDATES]
    common = settings or []
    for words in tried:
        read_recipe(recipe, parse_overrides([*common, *words]))
    steps = _Steps.open(out, {"photos": str(photos), "recipe": str(recipe), "set": common, "try": tried})
    dataset, model, compared = out / "photos", out / "model", out / "compare"

    steps.run("data", source, photos, dataset, "--max-refused", max_refused, product=dataset / "dataset.json")
    few = _few(dataset)
    steps.run("data", "check", dataset, "--apply", product=dataset / "check" / "contact.html")
    by = _divide(steps, dataset, out)

    folders: dict[str, tuple[Path, list[str]]] = {}
    failed: list[GraticuleError] = []
    for words in tried:
        name = _name(words, folders)
        folder = compared / name
        folds = ("--folds", _fold_count(dataset, by), "--group", by, "--without", "test", "--baseline", "knn")
        try:
            changes = [part for word in [*common, *words] for part in ("--set", word)]
            steps.run("crossval", recipe, "--photos", dataset, *folds, *changes, "--out", folder,
                      product=folder / "metrics.json")  # fmt: skip
        except WriteError:  # a full disk fails the others too
            raise
        except GraticuleError as error:
            failed.append(error)
            why = f"the weights of {name} could not be fetched" if isinstance(error, NotFetchedError) else str(error)
            typer.secho(f"left out: {why}", fg="yellow", err=True)
            continue
        folders[name] = (folder, words)
    if not folders:
        raise failed[0]
    steps.run("table", "runs", "--runs", compared, "--out", out / "compare.md", product=None)
    from graticule.evaluation.comparison import compare

    best, advice = compare({name: folder for name, (folder, _) in folders.items()})

    changes = [part for word in [*common, *folders[best][1], "split.by=column"] for part in ("--set", word)]
    going_on = ["--resume"] if (model / "training").exists() else []
    steps.run("train", recipe, "--photos", dataset, *changes, "--out", model, *going_on, product=model / "bundle.json")
    leaks = json.loads((out / "audit" / "audit.json").read_text(encoding="utf-8"))["held_out"] is False
    allow = ["--allow-leak"] if leaks else []
    steps.run("evaluate", model, dataset, "--baseline", "knn", *allow,
              product=model / "evaluation" / "test" / "metrics.json")  # fmt: skip
    page = out / "report.html"
    steps.run("report", model, "--photos", dataset, "--out", page, product=page)
    typer.echo("")
    for sentence in advice:
        typer.echo(f"of the candidates: {sentence}")
    measured = json.loads((model / "evaluation" / "test" / "metrics.json").read_text(encoding="utf-8"))
    typer.secho(_result(measured), bold=True)
    typer.echo(few or _what_helps(measured))
    typer.echo(
        f"photos: {dataset}, model: {model}, figures of all candidates: {out / 'compare.md'}; next: "
        f"graticule predict {quote(str(model))} PHOTO"
    )


def _few(dataset: Path) -> str:
    """Say, where photos are few, what they are good for, and return what would help; nothing where there are enough.

    Raises:
        BadTableError: they are too few to hold any out.
    """
    from graticule.inference.formats import FEW_PHOTOS
    from graticule.photos.table import read_photos

    count = len(read_photos(dataset))
    if count < LEAST:
        raise BadTableError(f"{counted(count, 'photo')} cannot teach a model; some hundred are the least that tell")
    if count >= FEW_PHOTOS:
        return ""
    typer.secho(f"{count} photos are few; some hundred are the least that tell", fg="yellow")
    return f"what helps most: more photos, since {count} are few; some hundred are the least that tell"


def _result(measured: Mapping[str, Any]) -> str:
    """How far off the model is on the test part, which nothing was chosen by."""
    from graticule.geo.sphere import format_km

    low, high = (format_km(end) for end in measured["intervals"]["median_km"])
    return (
        f"the model: half of its {counted(measured['photos'], 'test photo')} lie within "
        f"{format_km(measured['median_km'])} ({low} to {high}) of the answer"
    )


def _what_helps(measured: Mapping[str, Any]) -> str:
    if any(other["median_km"] <= measured["median_km"] for other in measured.get("others", {}).values()):
        return (
            "what helps most: photos of more places, or another encoder: --try 'encoder.name=resnet50' in a new folder"
        )
    return "what helps most: photos from where its errors are large, which the report's map shows"


def _name(words: list[str], taken: Container[str]) -> str:
    """What to call a candidate: the values it sets, but for files and options, which are long."""
    from graticule.evaluation.sweep import safe_name

    values = [word.partition("=")[2] for word in words if not word.startswith(("encoder.weights=", "encoder.options="))]
    name = safe_name("-".join(values))
    return next(each for each in (name, *(f"{name}-{n}" for n in range(2, 1000))) if each not in taken)


def _divide(steps: "_Steps", dataset: Path, out: Path) -> str:
    """Split the dataset where it has no split of its own, audit it, and say by what its folds are made."""
    from graticule.photos.columns import is_empty
    from graticule.photos.splits import honest_split
    from graticule.photos.table import read_photos

    table = read_photos(dataset)
    by, _ = honest_split(table)
    if is_empty(table, "split") or steps.has("data", "split", dataset):
        steps.run("data", "split", dataset, product=None)
    else:
        typer.echo(f"{dataset} has a split of its own, which is kept")
    steps.run("data", "audit", dataset, "--out", out / "audit", product=out / "audit" / "audit.json")
    return by


def _fold_count(dataset: Path, by: str) -> int:
    """Five folds, or as many as there are groups."""
    import numpy as np

    from graticule.photos.splits import BLOCKS_KM, groups_of, make_split
    from graticule.photos.table import read_photos

    table = read_photos(dataset)
    table = table.take(make_split(table, "column") != "test")
    return FOLDS if by in BLOCKS_KM else max(2, min(FOLDS, len(np.unique(groups_of(table, by)))))


class _Steps:
    """The commands of one start: each is printed, run once, and written down when it is done."""

    def __init__(self, file: Path, plan: dict[str, object], done: list[str]) -> None:
        self.file, self.plan, self.done = file, plan, done

    @classmethod
    def open(cls, out: Path, plan: dict[str, object]) -> "_Steps":
        """Begin, or go on with what was begun with the same plan.

        Raises:
            BadRecipeError: the folder holds something else.
        """
        file = out / PLAN
        if not file.is_file():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise BadRecipeError(f"{out} is not empty and nothing was started in it; choose a new folder")
            write_json(file, {"plan": plan, "done": []})
            return cls(file, plan, [])
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            before, done = held["plan"], [str(line) for line in held["done"]]
        except (ValueError, LookupError, TypeError) as error:
            raise BadRecipeError(f"{file} is not what start wrote; choose a new folder") from error
        differs = [
            f"{name} is {plan[name]!r} and was {before.get(name)!r}" for name in plan if plan[name] != before.get(name)
        ]
        if differs and not done:  # nothing came of it
            write_json(file, {"plan": plan, "done": []})
        elif differs:
            raise BadRecipeError(f"{out} was started with something else: {'; '.join(differs)}; choose a new folder")
        return cls(file, plan, done)

    def has(self, *words: object) -> bool:
        return join(["graticule", *map(str, words)]) in self.done

    def run(self, *words: object, product: Path | None) -> None:
        """Print a command and run it, or say that it was done: it is written down and what it made is there."""
        from graticule.cli import app as whole

        line = join(["graticule", *map(str, words)])
        resumed = line.removesuffix(" --resume")
        if resumed in self.done and (product is None or product.exists()):
            typer.secho(f"$ {resumed}  # done", dim=True)
            return
        typer.secho(f"$ {line}", bold=True)
        status = whole([str(word) for word in words], standalone_mode=False)
        if status:
            raise typer.Exit(status)
        self.done = [*dict.fromkeys([*self.done, resumed])]
        write_json(self.file, {"plan": self.plan, "done": self.done})
