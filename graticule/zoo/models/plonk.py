"""PLONK, which is known and cannot be had here."""

from graticule.zoo import PublicModel

MODEL = PublicModel(
    name="plonk",
    what="flow matching on the sphere: draws places for a photo",
    licence="MIT",
    gigabytes=1.5,
    trained_on="OpenStreetView-5M, YFCC-4k or iNat21, one model each",
    figures="see the tables of arXiv 2412.06781",
    source="https://github.com/nicolas-dufour/plonk",
    lacks="it answers with draws and a likelihood, not with classes, and no such head is in this version",
)
