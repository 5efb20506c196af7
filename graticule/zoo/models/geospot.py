"""GeoSpot Base, which is known and cannot be had here."""

from graticule.zoo import PublicModel

MODEL = PublicModel(
    name="geospot",
    what="GeoCLIP's scheme on SigLIP2-so400m at 512 px",
    licence="Apache-2.0",
    gigabytes=1.7,
    trained_on="about 10.6 million street views",
    figures="none are published on its card",
    source="https://huggingface.co/sdan/geospot-base",
    lacks=(
        "its card loads it with a GeoCLIP(encoder_name='siglip2') that is in no public package, so how the tower's "
        "output is pooled, which layers make 512 numbers of 1,152 and which gallery it is asked with is not known; it "
        "needs that class, or a list of the file's tensors and what is done with each"
    ),
)
