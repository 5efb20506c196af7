"""Model cards and datasheets, filled from what was measured, in the layout that the Hugging Face hub reads.

After Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), and Gebru et al., "Datasheets for Datasets"
(CACM 2021). A card says nothing that the folder beside it does not hold; what is unknown, it says so.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graticule.errors import BadTableError
from graticule.files import write_text
from graticule.geo.sphere import format_km

if TYPE_CHECKING:
    import polars as pl

CARD = "README.md"
TAG = "\n- graticule"  # in the front matter of every card
MOST_ROWS = 12  # of a table of countries and the like
SHARES = (
    "within_25_m",
    "within_100_m",
    "within_1_km",
    "within_25_km",
    "within_200_km",
    "within_750_km",
    "within_2500_km",
)


BELIEF = ("bits", "coverage_50", "coverage_80", "coverage_90", "coverage_95")  # of calibrated bundles


@dataclass(frozen=True, slots=True)
class Table:
    """Counts of one column for a card: its commonest values, and how many others there are."""

    rows: list[tuple[str, int]]
    others: int
    missing: int


def write_card(folder: Path) -> Path:
    """Write ``README.md`` of a bundle or a dataset, from the files that lie in it.

    A ``README.md`` that somebody else wrote stays as it is; the card is then ``CARD.md``.

    Returns:
        The file that was written.

    Raises:
        BadTableError: the folder is neither.
        WriteError: it cannot be written.
    """
    if (folder / "bundle.json").is_file():
        text = model_card(folder)
    elif (folder / "dataset.json").is_file():
        import polars as pl

        refused = folder / "refused.parquet"
        facts = _json(folder / "dataset.json")
        text = datasheet(
            pl.read_parquet(folder / "photos.parquet"),
            pl.read_parquet(refused) if refused.is_file() else None,
            facts,
            name=facts.get("name", folder.resolve().name),
        )
    else:
        raise BadTableError(
            f"{folder} is neither a bundle (it has no bundle.json) nor a dataset (it has no dataset.json); "
            f"`graticule train` and `graticule data ...` write them"
        )
    card = card_file(folder)
    write_text(card, text)
    return card


def card_file(folder: Path) -> Path:
    """Where the card of a folder goes: ``README.md``, unless that is somebody else's."""
    readme = folder / CARD
    ours = not readme.exists() or TAG in readme.read_text(encoding="utf-8", errors="replace").partition("\n---\n")[0]
    return readme if ours else folder / "CARD.md"


def datasheet(photos: "pl.DataFrame", refused: "pl.DataFrame | None", facts: Mapping[str, Any], *, name: str) -> str:
    """The datasheet of a dataset as Markdown.

    Args:
        photos, refused: the tables of the dataset's folder.
        facts: of ``dataset.json``.
    """
    from huggingface_hub import DatasetCardData

    licences = _values(photos, "licence")
    head = DatasetCardData(
        license=_licence(licences),
        task_categories=["image-classification"],
        tags=[
            "image-geolocation",
            "street-level-imagery",
            "graticule",
            *(["synthetic"] if facts.get("synthetic") else []),
        ],
        pretty_name=name,
        size_categories=_size_category(photos.height),
        configs=[{"config_name": "default", "data_files": facts.get("data_files", "photos.parquet")}],
    )
    return _filled(
        "datasheet.md.j2",
        head=head.to_yaml(),
        name=name,
        facts=facts,
        photos=photos.height,
        columns=photos.columns,
        bounds=_bounds(photos),
        dates=_dates(photos),
        counts={
            column: len(set(_values(photos, column))) for column in ("place", "sequence") if column in photos.columns
        },
        tables={
            title: _table(photos, column)
            for title, column in (
                ("country", "country"),
                ("part", "split"),
                ("source", "source"),
                ("licence", "licence"),
                ("attribution", "attribution"),
                ("mark", "marked"),
            )
            if column in photos.columns and photos[column].null_count() < photos.height
        },
        refused=_table(refused, "reason") if refused is not None and refused.height else None,
        licences=sorted(set(licences)),
    )


def model_card(bundle: Path) -> str:
    """The card of a bundle as Markdown, with the evaluations that lie in its folder."""
    from huggingface_hub import EvalResult, ModelCardData

    index = _json(bundle / "bundle.json")
    facts = index.get("facts", {})
    recipe = _yaml(bundle / "recipe.yaml")
    found = {path.parent.name: _json(path) for path in sorted(bundle.glob("evaluation/*/metrics.json"))}
    # What is not held out is memory in part: it comes last, under that name, and is no result for the hub.
    evaluations = dict(sorted(found.items(), key=lambda item: item[1].get("held_out") is not True))
    table = bundle / "training" / "photos.parquet"
    photos = None
    if table.is_file():
        import polars as pl

        photos = pl.read_parquet(table)
    name = f"{recipe.get('name', bundle.resolve().name)}"
    licences = _values(photos, "licence") if photos is not None else []
    imported = facts.get("imported")
    head = ModelCardData(
        license=imported["licence"].lower() if imported else _licence(licences),
        library_name="graticule",
        pipeline_tag="image-classification",
        tags=["image-geolocation", "graticule", *(["synthetic"] if facts.get("synthetic") else [])],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="image-classification",
                task_name="image geolocation",
                dataset_type="street-level-photos",
                dataset_name=f"photos of the part {part}",
                metric_type=metric,
                metric_value=round(metrics[metric], 6),
                verified=False,
            )
            for part, metrics in evaluations.items()
            for metric in ("median_km", "mean_km", "top1", "score")
            if metrics.get("held_out") is True and metrics.get(metric) is not None
        ]
        or None,
    )
    return _filled(
        "model_card.md.j2",
        head=head.to_yaml(),
        name=name,
        index=index,
        facts=facts,
        recipe=recipe,
        recipe_text=_text(bundle / "recipe.yaml"),
        evaluations={part: _measured(metrics) for part, metrics in evaluations.items()},
        audits={part: metrics.get("held_out_reason") for part, metrics in evaluations.items()},
        held_out={part: metrics.get("held_out") is True for part, metrics in evaluations.items()},
        training_audit=_json(bundle / "training" / "audit.json"),
        countries=_table(photos, "country") if photos is not None and "country" in photos.columns else None,
        bounds=_bounds(photos) if photos is not None else None,
        dates=_dates(photos) if photos is not None else None,
        licences=sorted(set(licences)),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluation as a card shows it: names, values with intervals, and the table by country."""

    photos: int
    synthetic: bool
    rows: list[tuple[str, str, str]]
    countries: list[tuple[str, int, str]]
    more_countries: int


def _measured(metrics: Mapping[str, Any]) -> Measured:
    spans = metrics.get("intervals", {})
    rows = []
    for name in ("median_km", "mean_km", "top1", "top3", "top5", *SHARES, "score", *BELIEF):
        value = metrics.get(name)
        if value is None or (name.startswith("within") and value in (0.0, 1.0)):
            continue
        span = spans.get(name)
        interval = f"{_shown(name, span[0])} to {_shown(name, span[1])}" if span else ""
        rows.append((_label(name), _shown(name, value), interval))
    groups = metrics.get("by_country") or []
    return Measured(
        photos=metrics.get("photos", 0),
        synthetic=bool(metrics.get("synthetic")),
        rows=rows,
        countries=[(row["label"], row["photos"], format_km(row["median_km"])) for row in groups[:MOST_ROWS]],
        more_countries=max(0, len(groups) - MOST_ROWS),
    )


def _label(name: str) -> str:
    if name.startswith("within_"):
        return "within " + name.removeprefix("within_").replace("_", " ")
    if name.startswith("coverage_"):
        return f"in the {name.removeprefix('coverage_')} % region"
    named = {
        "median_km": "median error",
        "mean_km": "mean error",
        "score": "score of 5000",
        "bits": "bits of location beyond the map of the training photos; below zero it knows less than that map",
    }
    return named.get(name, name.replace("top", "top-"))


def _shown(name: str, value: float) -> str:
    if name.endswith("_km") and not name.startswith("within"):
        return format_km(value)
    if name == "bits":
        return f"{value:.2f}"
    return f"{value:.0f}" if name == "score" else f"{value:.1%}"


def _table(frame: "pl.DataFrame", column: str) -> Table:
    import polars as pl

    counts = frame[column].cast(pl.String).drop_nulls().value_counts(sort=True, name="photos")
    rows = [(str(value), int(count)) for value, count in counts.head(MOST_ROWS).iter_rows()]
    return Table(rows, max(0, counts.height - MOST_ROWS), frame[column].null_count())


def _values(frame: "pl.DataFrame", column: str) -> list[str]:
    if column not in frame.columns:
        return []
    import polars as pl

    return [str(value) for value in frame[column].cast(pl.String).drop_nulls().to_list()]


def _bounds(frame: "pl.DataFrame") -> str:
    """The box around all positions, to 0.01 degrees: a card should not point at a door."""
    if not frame.height:
        return ""
    lat, lon = frame["lat"].to_numpy(), frame["lon"].to_numpy()
    return f"latitude {lat.min():.2f} to {lat.max():.2f}, longitude {lon.min():.2f} to {lon.max():.2f} degrees"


def _dates(frame: "pl.DataFrame") -> str:
    days = sorted(value[:10] for value in _values(frame, "captured_at") if value[:4].isdigit() and value[4:5] == "-")
    return " to ".join(sorted({str(days[0]), str(days[-1])})) if days else ""


def _licence(names: Sequence[str]) -> str:
    """The hub's name of the one licence that all photos have, else ``other``."""
    found = {name.strip().lower().replace(" ", "-") for name in names}
    return found.pop() if len(found) == 1 else "other"


def _size_category(photos: int) -> str:
    edges = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for below, name in edges if photos < below), "1M<n<10M")


def _filled(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("graticule", "assets"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    env.filters |= {"plain": _plain, "fenced": _fenced}
    return env.get_template(template).render(**values)


def _plain(value: object) -> str:
    """Somebody's words on one line of Markdown, where they can be neither HTML nor markup."""
    return re.sub(r"([\\`\[\]|])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _fenced(text: str, language: str) -> str:
    """A block of code whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load(_text(path)) or {}
    return found
