"""What the parts of ``bench.gpu`` share: where things lie, and the rows that each part found. No torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Setup:
    """One run of the benchmark.

    Attributes:
        folder: for photos, runs and what was found; gone at the end.
        small: tiny networks, to try the script.
        frames: photos of the city.
    """

    folder: Path
    small: bool
    frames: int

    @property
    def city(self) -> Path:
        return self.folder / "city"

    @property
    def large(self) -> Path:
        """The first frames of the city, enlarged to what cameras give."""
        return self.folder / "large"

    def emit(
        self,
        part: str,
        what: str,
        measured: str,
        *,
        value: float | None = None,
        goal: str = "",
        met: bool | None = None,
    ) -> None:
        """Keep a row of the table at once: a part that is stopped later still tells what it found."""
        row = {"what": what, "measured": measured, "goal": goal, "met": met, "value": value}
        with (self.folder / f"{part}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def found(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part, so far."""
        path = self.folder / f"{part}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def value(self, part: str, what: str) -> float | None:
        """The number of one row; none where the part did not come so far."""
        return next((row["value"] for row in self.found(part) if row["what"] == what), None)
