"""Tables of finished runs: any of them with intervals, and the two reports' layouts with honest columns beside."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from graticule.errors import BadTableError

PAPER = {
    "resnet50": "ResNet-50",
    "vit_b_16": "ViT-B/16",
    "vit_b_32": "ViT-B/32",
    "vit_l_16": "ViT-L/16",
    "vit_l_32": "ViT-L/32",
    "convnext_base": "ConvNeXt_base",
    "convnext_large": "ConvNeXt_large",
}
FOLDS = "folds"  # the part that stands for the photos of all folds
OWN_SPLIT = {"random": "by frame", "sequence": "unseen drives", "block": "unseen blocks", "column": "own split"}


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its recipe as a tree, and the metrics of its parts by name."""

    name: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Any]]

    @property
    def encoder(self) -> str:
        """The encoder as the report's tables call it, else by its own name."""
        own = str(self.recipe["encoder"]["name"]).removeprefix("torchvision/")
        return PAPER.get(own, own)

    @property
    def head(self) -> str:
        return str(self.recipe["head"].get("kind", "cells"))

    @property
    def share(self) -> float:
        return float(self.recipe["train"].get("share", 1.0))

    @property
    def split(self) -> str:
        return str(self.recipe["split"]["by"])


@dataclass(frozen=True, slots=True)
class Span:
    """A number with its 95 % interval, in the unit of its column; shown with so many decimals."""

    value: float
    low: float | None
    high: float | None
    decimals: int

    def text(self, to: str = " to ") -> str:
        numbers = [f"{number:,.{self.decimals}f}" for number in (self.value, self.low, self.high) if number is not None]
        return numbers[0] + (f" ({numbers[1]}{to}{numbers[2]})" if len(numbers) == 3 else "")


Cell = str | Span


@dataclass(frozen=True, slots=True)
class Table:
    """A title, column names, and rows of the same length."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]

    def texts(self, to: str = " to ") -> list[tuple[str, ...]]:
        """The rows as text, a number with its interval in brackets."""
        return [tuple(cell.text(to) if isinstance(cell, Span) else cell for cell in row) for row in self.rows]

    def to_markdown(self) -> str:
        escaped = [tuple(cell.replace("|", "\\|") for cell in line) for line in (self.header, *self.texts())]
        lines = [escaped[0], tuple("---" for _ in self.header), *escaped[1:]]
        return f"**{self.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def to_csv(self) -> str:
        """A header and the rows; a column of numbers with intervals becomes three: itself, its low and its high end."""
        spans = [any(isinstance(row[i], Span) for row in self.rows) for i in range(len(self.header))]
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        for row in (self.header, *self.rows):
            cells: list[str] = []
            for cell, spanned in zip(row, spans, strict=True):
                if isinstance(cell, Span):
                    cells += ["" if n is None else f"{n:.6g}" for n in (cell.value, cell.low, cell.high)]
                elif spanned:
                    cells += [cell, f"{cell} low", f"{cell} high"] if row is self.header else [cell, "", ""]
                else:
                    cells.append(cell)
            writer.writerow(cells)
        return file.getvalue()

    def to_latex(self) -> str:
        """A ``table`` for LaTeX with the package booktabs."""
        numbers = ["r" if any(isinstance(row[i], Span) for row in self.rows) else "l" for i in range(len(self.header))]
        head, *body = (" & ".join(map(_latex, line)) + r" \\" for line in (self.header, *self.texts("--")))
        lines = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        inner = "\n".join([rf"\begin{{tabular}}{{{''.join(numbers)}}}", *lines, r"\end{tabular}"])
        caption = rf"\caption{{{_latex(self.title)}}}"
        return "\n".join([r"\begin{table}", r"\centering", caption, inner, r"\end{table}"]) + "\n"


def read_runs(folder: Path) -> list[Run]:
    """All finished runs in the folders of a folder, in the order of the sweep that made them.

    Raises:
        BadTableError: there is none.
    """
    plan = folder / "sweep.json"
    planned = [arm["name"] for arm in json.loads(plan.read_text(encoding="utf-8"))["arms"]] if plan.is_file() else []
    found = sorted({path.parent.name for name in ("bundle.json", "metrics.json") for path in folder.glob(f"*/{name}")})
    names = [name for name in planned if name in found] + [name for name in found if name not in planned]
    runs = [run for name in names if (run := _read_run(folder / name)) is not None]
    if not runs:
        raise BadTableError(
            f"{folder} holds no finished run: none in it has a bundle with an evaluation, or figures of folds. "
            f"`graticule sweep RECIPE --photos DATASET --out {folder}` makes them"
        )
    return runs


def table_of_runs(runs: Sequence[Run]) -> list[Table]:
    """One row for each measurement of each run, with 95 % intervals resampled by place.

    Distances are in metres where every median lies below 10 km, else in kilometres.
    """
    measured = [(run, part, found) for run in runs for part, found in run.metrics.items()]
    unit, scale = ("m", 1000.0) if all(found["median_km"] < 10 for *_, found in measured) else ("km", 1.0)
    columns: list[tuple[str, str, float, int]] = [
        (f"median error, {unit}", "median_km", scale, 0),
        (f"mean error, {unit}", "mean_km", scale, 0),
        *((f"within {name}, %", f"within_{name.replace(' ', '_')}", 100.0, 1) for name in _radii(unit)),
        ("right cell, %", "top1", 100.0, 1),
        ("bits of location", "bits", 1.0, 2),
        ("in the 90 % region, %", "coverage_90", 100.0, 1),
    ]
    columns = [column for column in columns if any(found.get(column[1]) is not None for *_, found in measured)]
    others = list(dict.fromkeys(name for *_, found in measured for name in found.get("others", {})))
    header = ("run", "encoder", "tested on", "held out", "photos", "places", *(column[0] for column in columns))
    rows: list[tuple[Cell, ...]] = []
    for run, part, found in measured:
        cells: list[Cell] = [run.name, run.encoder, _tested_on(run, part, found), _held_out(found)]
        cells += [f"{found['photos']:,}", f"{found['places']:,}" if "places" in found else ""]
        cells += [_span(found, *column[1:]) for column in columns]
        cells += [_span(found.get("others", {}).get(name), "median_km", scale, 0) for name in others]
        rows.append(tuple(cells))
    header += tuple(f"{name}: median, {unit}" for name in others)
    return [Table("Runs with 95 % intervals, resampled by place", header, rows)]


def table_of_effects(effects: Sequence[Mapping[str, Any]]) -> list[Table]:
    """One table a collection of what each setting is worth, from the effects of :mod:`graticule.evaluation.ablation`.

    A difference is less the plain recipe's on the same photos; its interval is of 95 %, resampled by place.
    """
    tables = []
    for name in dict.fromkeys(effect["collection"] for effect in effects):
        own = [effect for effect in effects if effect["collection"] == name]
        unit, scale = ("m", 1000.0) if all(effect["median_km"] < 10 for effect in own) else ("km", 1.0)
        header = (
            "settings", f"median error, {unit}", "less plain's, from", "to", f"mean error, {unit}", "bits of location",
            "less plain's, from", "to", "in the 90 % region, %", "its area, km2", "training, s", "verdict",
        )  # fmt: skip
        rows: list[tuple[Cell, ...]] = []
        for effect in own:
            share = effect["coverage_90"]
            rows.append(
                (
                    effect["variant"],
                    _scaled(effect["median_km"], scale, 0),
                    *_ends(effect["median_difference_km"], scale, 0),
                    _scaled(effect["mean_km"], scale, 0),
                    _scaled(effect["bits"], 1, 2),
                    *_ends(effect["bits_difference"], 1, 2),
                    _scaled(share, 100, 1),
                    "" if effect["area_90_km2"] is None else f"{effect['area_90_km2']:.3g}",
                    f"{effect['seconds']:.0f}",
                    effect["verdict"],
                )
            )
        tables.append(Table(f"{name}: {own[0]['photos']:,} photos, {own[0]['seeds']} seeds", header, rows))
    return tables


def _scaled(value: float | None, scale: float, decimals: int) -> str:
    return "" if value is None else f"{value * scale:,.{decimals}f}"


def _ends(ends: Sequence[float] | None, scale: float, decimals: int) -> tuple[str, str]:
    return ("", "") if ends is None else (f"{ends[0] * scale:+,.{decimals}f}", f"{ends[1] * scale:+,.{decimals}f}")


def _radii(unit: str) -> tuple[str, ...]:
    return ("25 m", "100 m", "1 km") if unit == "m" else ("1 km", "25 km", "200 km")


def _span(found: Mapping[str, Any] | None, name: str, scale: float, decimals: int) -> Cell:
    if found is None or found.get(name) is None:
        return ""
    ends = found.get("intervals", {}).get(name)
    low, high = (end * scale for end in ends) if ends else (None, None)
    return Span(found[name] * scale, low, high, decimals)


def _tested_on(run: Run, part: str, found: Mapping[str, Any]) -> str:
    if part == FOLDS:
        return f"{found['folds']} folds by {found['group']}"
    return f"{part}, {OWN_SPLIT.get(run.split, f'by {run.split}')}"


def _held_out(found: Mapping[str, Any]) -> str:
    sides = [audit["held_out"] for audit in found.get("audits", ())] or [found.get("held_out")]
    return "NO" if False in sides else "cannot tell" if None in sides else "yes"


def tables_a(runs: Sequence[Run]) -> list[Table]:
    """Report A's Table 1 (encoders) and Table 2 (classification and regression together).

    Its accuracy is top-1 of the cell, its L2 norm the distance from the centre of the predicted cell to the centre of
    the true one: zero whenever the cell is right. The true error, to the photo, stands beside it, and so do both on
    drives that training never saw, where a run with that split is there.
    """
    runs = [run for run in runs if FOLDS not in run.metrics]
    splits = _splits(runs)
    header: list[str] = ["Model"]
    for split in splits:
        where = OWN_SPLIT.get(split, f"by {split}")
        header += [f"Accuracy, {where}", "CE loss", "L2 norm, m", "True error: median, m", "mean, m"]
    plain = [run for run in runs if run.head == "cells"]
    rows = []
    for share in sorted({run.share for run in plain}, reverse=True):
        if share < 1:
            rows.append((f"*{share:.0%} of the training photos*", *("" for _ in header[1:])))
        for encoder in _in_order(run.encoder for run in plain if run.share == share):
            cells = [encoder]
            for split in splits:
                found = _one(plain, encoder=encoder, share=share, split=split)
                cells += [*_classified(found), _metres(found, "median_km"), _metres(found, "mean_km")]
            rows.append(tuple(cells))
    tables = [Table("Table 1. Classification, one row an encoder", tuple(header), rows)] if rows else []
    return tables + _table_2(runs, _splits([run for run in runs if run.head != "cells"]))


def _table_2(runs: Sequence[Run], splits: Sequence[str]) -> list[Table]:
    header: list[str] = ["Alpha"]
    for split in splits:
        where = OWN_SPLIT.get(split, f"by {split}")
        header += [f"Accuracy, {where}", "L2 norm (CLS), m", "L2 norm (REG), m", "True error (CLS): mean, m"]
    kinds: list[tuple[str, str, float | None]] = [("classification alone", "cells", None)]
    kinds += [(f"{alpha:g}", "both", alpha) for alpha in sorted({_alpha(run) for run in runs if run.head == "both"})]
    kinds.append(("regression alone", "position", None))
    encoders = {run.encoder for run in runs if run.head != "cells"}
    rows = []
    for label, head, alpha in kinds:
        cells = [label]
        for split in splits:
            same = [
                r for r in runs if r.head == head and r.encoder in encoders and (alpha is None or _alpha(r) == alpha)
            ]
            found = _one(same, split=split, share=1.0)
            regressed = "mean_km" if head == "position" else "regression_mean_km"
            cells += [
                _percent(found, "top1"),
                _metres(found, "center_distance_km") if head != "position" else "",
                _metres(found, regressed) if head != "cells" else "",
                _metres(found, "mean_km") if head != "position" else "",
            ]
        if any(cells[1:]):
            rows.append(tuple(cells))
    return [Table("Table 2. Classification, regression, and both", tuple(header), rows)] if encoders else []


def tables_b(runs: Sequence[Run]) -> list[Table]:
    """Report B's result: top-1, top-3, top-5 and the loss, on the validation and on the test part side by side."""
    header = ("Model", "split", "part", "photos", "top-1", "top-3", "top-5", "loss", "median error, km")
    rows = []
    for run in runs:
        for part, found in run.metrics.items():
            rows.append(
                (
                    run.encoder,
                    OWN_SPLIT.get(run.split, f"by {run.split}"),
                    part,
                    f"{found['photos']:,}",
                    *(_percent(found, name) for name in ("top1", "top3", "top5")),
                    _number(found, "cross_entropy", 3),
                    _number(found, "median_km", 3),
                )
            )
    return [Table("Validation and test side by side", header, rows)]


TABLES = {"a": tables_a, "b": tables_b, "runs": table_of_runs}
FORMATS = {"markdown": Table.to_markdown, "csv": Table.to_csv, "latex": Table.to_latex}
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex"}


def _read_run(folder: Path) -> Run | None:
    metrics = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("evaluation/*/metrics.json"), key=lambda path: path.parent.name != "val")
    }
    folds = folder / "metrics.json"
    if not metrics and folds.is_file() and "folds" in (found := json.loads(folds.read_text(encoding="utf-8"))):
        metrics = {FOLDS: found}
    if not metrics or not (folder / "recipe.yaml").is_file():
        return None
    return Run(folder.name, yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")), metrics)


def _one(runs: Sequence[Run], **wanted: Any) -> Mapping[str, Any] | None:
    """The test metrics of the run with these properties."""
    for run in runs:
        if all(getattr(run, name) == value for name, value in wanted.items()):
            return run.metrics.get("test")
    return None


def _classified(found: Mapping[str, Any] | None) -> list[str]:
    return [_percent(found, "top1"), _number(found, "cross_entropy", 3), _metres(found, "center_distance_km")]


def _alpha(run: Run) -> float:
    return float(run.recipe["target"].get("alpha") or 1.0)


def _splits(runs: Sequence[Run]) -> list[str]:
    """Splits of the runs: those known here as :data:`OWN_SPLIT` lists them, the report's own first, then others."""
    found = {run.split for run in runs}
    return [split for split in OWN_SPLIT if split in found] + sorted(found - OWN_SPLIT.keys())


def _in_order(values: Iterator[str] | Sequence[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _percent(found: Mapping[str, Any] | None, name: str) -> str:
    return f"{100 * found[name]:.2f}%" if found and found.get(name) is not None else ""


def _number(found: Mapping[str, Any] | None, name: str, digits: int) -> str:
    return f"{found[name]:.{digits}f}" if found and found.get(name) is not None else ""


def _metres(found: Mapping[str, Any] | None, name: str) -> str:
    return f"{1000 * found[name]:.1f}" if found and found.get(name) is not None else ""


def _latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
