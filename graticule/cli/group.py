"""A group of commands that can be stopped."""

from typing import Any

import typer
from typer.core import TyperGroup

GOES_ON = {"start", "sweep", "pack", "streetscapes", "mapillary", "kartaview", "osv5m"}  # when it is run again


class Commands(TyperGroup):
    """Commands that end in one line where they are interrupted."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            again = "the same command goes on where it stopped" if ctx.invoked_subcommand in GOES_ON else ""
            hint = str(stop) or again
            typer.secho(f"interrupted{hint and '; '}{hint}", err=True)
            raise typer.Exit(130) from None
