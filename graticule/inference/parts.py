"""Answers and features of millions of photos, in the parts that :mod:`graticule.parts` makes."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from graticule.choices import Answer, Precision, Runtime
from graticule.inference.batch import answer_table, feature_table
from graticule.inference.locate import load
from graticule.model.index import INDEX, read_index


@dataclass(frozen=True, slots=True)
class PhotoJob:
    """What to ask of each photo; see :class:`graticule.parts.Job`.

    Attributes:
        bundle: where it lies, for all the machines alike.
        kind: rows of :func:`answer_table` or of :func:`feature_table`.
        top: likely cells of an answer.
    """

    bundle: str
    kind: Literal["answers", "features"]
    precision: Precision = "float32"
    runtime: Runtime | None = None
    top: int = 1
    max_error_km: float | None = None
    min_probability: float = 0.5
    answer: Answer | None = None

    def about(self) -> dict[str, Any]:
        own = {name: value for name, value in asdict(self).items() if name != "bundle"}
        return own | {"bundle": read_index(Path(self.bundle))["sha256"][INDEX]}

    def open(self, cores: int | None) -> Callable[[Sequence[Path]], pl.DataFrame]:
        """The bundle, opened once for all parts. The last digits of an answer depend on how many cores work on it."""
        import torch

        if cores:
            torch.set_num_threads(cores)
        locator = load(self.bundle, precision=self.precision, runtime=self.runtime, answer=self.answer)
        if self.kind == "features":
            return partial(feature_table, locator)
        return partial(
            answer_table,
            locator,
            top=self.top,
            max_error_km=self.max_error_km,
            min_probability=self.min_probability,
        )
