"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxRefused = Annotated[float, typer.Option(min=0, max=1, help="Stop if more than this share of photos is refused.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: train.epochs=2. May be repeated.")]
Column = typer.Option(help="The table's own name of this column.")


class Track(StrEnum):
    revisit = "revisit"
    unseen = "unseen"


SPLIT_BY = (
    "What stays whole on one side: drive, sequence, place, day, uploader, block, world, or any column such as city; "
    "several joined by +. Or time, random, or column, as the table's own column split says."
)
