"""Divisions of the map as a recipe says them, and what its other sections share."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from graticule.choices import Keep

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class S2Cells(Section):
    """Adaptive S2 cells (PlaNet, arXiv 1602.05314, section 3.1; ``nested`` as report A wrote it)."""

    kind: Literal["s2"] = "s2"
    split_above: Count = 1000
    drop_below: Count = Field(default_factory=lambda data: min(50, max(1, data.get("split_above", 1000) // 20)))
    max_level: Annotated[int, Field(ge=0, le=30)] = 18
    keep: Keep = "planet"

    @model_validator(mode="after")
    def _keeps_some(self) -> Self:
        if self.drop_below > self.split_above:
            raise ValueError(
                f"drop_below={self.drop_below} exceeds split_above={self.split_above}: every cell that is "
                f"small enough to keep would be dropped; make drop_below the smaller of the two"
            )
        return self


class GridCells(Section):
    """The quantile grid of report A's notebook: equal counts along each axis."""

    kind: Literal["grid"]
    rows: Count
    columns: Count


class ClusterCells(Section):
    """Clusters of the photos' positions."""

    kind: Literal["kmeans", "gaussian"]
    clusters: Count


class SemanticCells(Section):
    """Clusters of places within adaptive S2 cells (PIGEON, arXiv 2307.05845, section 3.1).

    A point belongs to the cluster of the nearest training photo, so a bundle keeps the positions of all of them.
    """

    kind: Literal["semantic"]
    split_above: Count = 1000  # places of an S2 cell around clusters, at most
    min_cluster_size: Annotated[int, Field(ge=2)] = Field(
        default_factory=lambda data: max(2, data.get("split_above", 1000) // 20)
    )
    max_level: Annotated[int, Field(ge=0, le=30)] = 18


class LabelCells(Section):
    """The values of a column, such as ``label: city``."""

    kind: Literal["label"]
    label: str


class PointCells(Section):
    """Each different position of a photo is a class; what the gallery of an imported model is."""

    kind: Literal["points"]


def _kind_of(tree: Any) -> Any:
    return tree.get("kind", "s2") if isinstance(tree, dict) else getattr(tree, "kind", None)


CELLS: dict[str, type[Section]] = {
    "s2": S2Cells, "grid": GridCells, "kmeans": ClusterCells, "gaussian": ClusterCells,
    "semantic": SemanticCells, "label": LabelCells, "points": PointCells,
}  # fmt: skip
Cells = Annotated[
    Annotated[S2Cells, Tag("s2")]
    | Annotated[GridCells, Tag("grid")]
    | Annotated[ClusterCells, Tag("kmeans")]
    | Annotated[ClusterCells, Tag("gaussian")]
    | Annotated[SemanticCells, Tag("semantic")]
    | Annotated[LabelCells, Tag("label")]
    | Annotated[PointCells, Tag("points")],
    Discriminator(_kind_of),
    # Nothing is a value of no setting: recipes were once written with every kind's settings, most of them null.
    BeforeValidator(lambda tree: {k: v for k, v in tree.items() if v is not None} if isinstance(tree, dict) else tree),
]
