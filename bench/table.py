"""A row of the printed table, and the table."""

from typing import NamedTuple


class Row(NamedTuple):
    what: str
    measured: str
    goal: str = ""
    met: bool | None = None  # none: the row has no goal, or could not be measured


def print_table(rows: list[Row]) -> None:
    met = {None: "", True: "yes", False: "NO"}
    cells = [("what", "measured", "goal", "met"), *((r.what, r.measured, r.goal, met[r.met]) for r in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
