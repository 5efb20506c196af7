"""PLONK, which is known and cannot be had here."""

from graticule.zoo import PublicModel

MODEL = PublicModel(
    name="plonk",
    what="flow matching on the sphere: draws places for a photo",
    licence="MIT",
    gigabytes=1.5,
    trained_on="OpenStreetView-5M, YFCC-100M or iNat-21, one model each",
    figures="OSV-5M: GeoScore 3767, 1,069 km on average (arXiv 2412.06781)",
    source="https://github.com/nicolas-dufour/plonk",
    lacks=(
        "it answers with draws along a flow and a likelihood, not with classes, and no such head is in this version; "
        "its towers are StreetCLIP's (CC-BY-NC-4.0) for OpenStreetView-5M, DINOv2 ViT-L/14 with registers for others"
    ),
)
