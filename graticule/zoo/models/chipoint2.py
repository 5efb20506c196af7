"""Chipoint 2, which is known and cannot be had here."""

from graticule.zoo import PublicModel

MODEL = PublicModel(
    name="chipoint-2",
    what="retrieval over 4.9 million street views, and a reranker",
    licence="MIT",
    gigabytes=40,
    trained_on="OpenStreetView-5M",
    figures="OSV-5M of its predecessor: GeoScore 4174, 51 km in the median, 716 km on average, 38 % within 25 km",
    source="https://huggingface.co/chiikabu-labs/chipoint-2",
    lacks=(
        "its files take tens of gigabytes, and neither they nor their code could be seen when this version was made; "
        "it needs the layout of its gallery, of its projection heads and of the reranker's 23 features"
    ),
)
