"""The floors of the house, and their table in docs/architecture.md.

    python tools/floors.py

A room is a module or a package of ``graticule``, by its dotted name below it (``geo``, ``sources``, or ``sources.city``
where one module of a package stands on a floor of its own). It imports only from floors below its own.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parents[1]
PACKAGE, PAGE = HOUSE / "graticule", HOUSE / "docs" / "architecture.md"
BEGIN, END = "<!-- floors: written by tools/floors.py -->", "<!-- floors: end -->"
ROUND = 50  # lines are told in steps, so that not every edit asks for a new table

FLOORS = [
    {"errors", "choices"},
    {"files", "geo"},
    {"parts"},
    {"trees", "photos"},
    {"sections"},
    {"config"},
    {"partition", "sources"},
    {"belief"},
    {"model"},
    {"inference", "zoo"},
    {"training"},
    {"evaluation", "reporting"},
    {"explaining"},
    {"serving"},
    {"cli"},
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}


def sources() -> list[Path]:
    """The modules of the package; one that only makes a folder a package, or is the front door, is no room."""
    files = sorted(PACKAGE.rglob("*.py"))
    doors = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}
    return [path for path in files if path not in doors and path.read_text(encoding="utf-8").strip()]


def module_of(path: Path) -> str:
    """``sources.city`` of ``graticule/sources/city/make.py``, ``sources`` of its ``__init__.py``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The room that a dotted name lies in: the longest that begins it; None where no floor has one."""
    parts = module.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if name in FLOOR_OF), None)


def imported_by(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported_by(path: Path) -> set[str]:
    """The other rooms that a module imports from."""
    names = {name.removeprefix("graticule.") for name in imported_by(path) if name.startswith("graticule.")}
    return {room for name in names if (room := room_of(name))} - {room_of(module_of(path))}


def table() -> str:
    """Floors, rooms, lines and imports as Markdown."""
    lines, below = dict.fromkeys(FLOOR_OF, 0), {room: set[str]() for room in FLOOR_OF}
    for path in sources():
        if room := room_of(module_of(path)):
            lines[room] += len(path.read_text(encoding="utf-8").splitlines())
            below[room] |= rooms_imported_by(path)
    rows = [
        f"| {floor} | `{room}` | {-(-lines[room] // ROUND) * ROUND} | {', '.join(sorted(below[room])) or '-'} |"
        for room, floor in sorted(FLOOR_OF.items(), key=lambda item: item[::-1])
    ]
    return "\n".join(["| floor | room | lines, at most | imports |", "|---|---|---|---|", *rows])


def written(page: str) -> str:
    """The page with its table made anew between the two marks."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
