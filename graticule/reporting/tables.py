"""The tables of the two reports, from finished runs, with the honest columns beside theirs."""

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
class Table:
    """A title, column names, and rows of text of the same length."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def to_markdown(self) -> str:
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def read_runs(folder: Path) -> list[Run]:
    """All finished runs in the folders of a folder, in the order of the sweep that made them.

    Raises:
        BadTableError: there is none.
    """
    plan = folder / "sweep.json"
    planned = [arm["name"] for arm in json.loads(plan.read_text(encoding="utf-8"))["arms"]] if plan.is_file() else []
    found = sorted(path.parent.name for path in folder.glob("*/bundle.json"))
    names = [name for name in planned if name in found] + [name for name in found if name not in planned]
    runs = [run for name in names if (run := _read_run(folder / name)) is not None]
    if not runs:
        raise BadTableError(
            f"{folder} holds no finished run: no folder in it has both a bundle and an evaluation. "
            f"`graticule sweep RECIPE --photos DATASET --out {folder}` makes them"
        )
    return runs


def tables_a(runs: Sequence[Run]) -> list[Table]:
    """Report A's Table 1 (encoders) and Table 2 (classification and regression together).

    Its accuracy is top-1 of the cell, its L2 norm the distance from the centre of the predicted cell to the centre of
    the true one: zero whenever the cell is right. The true error, to the photo, stands beside it, and so do both on
    drives that training never saw, where a run with that split is there.
    """
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


TABLES = {"a": tables_a, "b": tables_b}


def _read_run(folder: Path) -> Run | None:
    metrics = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("evaluation/*/metrics.json"), key=lambda path: path.parent.name != "val")
    }
    if not metrics:
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
