"""A group of commands that can be stopped, and of which one at a time writes into a folder."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from graticule.files import claimed

GOES_ON = {"start", "sweep", "pack", "streetscapes", "mapillary", "kartaview", "osv5m"}  # when it is run again
ONE_FILE = {  # what they write is one file, which is whole or not there
    "cells", "data sequences", "data split", "features", "leak", "locate", "predict", "report", "score", "table"
}  # fmt: skip

IN_PLACE = {"calibrate", "export"}  # where no other folder is named, they write into the bundle


class Commands(TyperGroup):
    """Commands that end in one line where they are interrupted, and refuse a folder that another one writes to."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            again = "the same command goes on where it stopped" if ctx.invoked_subcommand in GOES_ON else ""
            hint = str(stop) or again
            typer.secho(f"interrupted{hint and '; '}{hint}", err=True)
            raise typer.Exit(130) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command and command.callback and not isinstance(command, TyperGroup):
            command.callback = _alone(command.callback, f"data {name}" if self.name == "data" else str(name))
        return name, command, rest


def _alone(command: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A command whose folder ``out`` nobody else writes to while it runs."""

    @wraps(command)
    def run(**values: Any) -> Any:
        out = values.get("out")
        if out is None and name in IN_PLACE and values["bundle"].is_dir():
            out = values["bundle"]
        from graticule.training.devices import Machines

        machines = Machines.of(values.get("devices"), values.get("nodes"))
        in_parts = values.get("engine") is not None and name != "cells"  # many files, in a folder
        one_file = (name in ONE_FILE and not in_parts) or (isinstance(out, Path) and out.is_file())
        if not isinstance(out, Path) or one_file or not machines.is_first:  # of one run, the first claims it
            return command(**values)
        with claimed(out):
            return command(**values)

    return run
