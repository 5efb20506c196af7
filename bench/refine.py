"""How much nearer ``graticule get geoclip --refine`` brings a point: a denser gallery around the likeliest place.

python -m bench.refine FOLDER TABLE

FOLDER holds GeoCLIP's package (``pip download --no-deps geoclip==1.3.0``, unzipped), TABLE positions in ``lat, lon``.
No photo is asked about: the question is the embedding of a position itself, with noise that leaves it a given cosine.
An image tower errs in ways that this does not know.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch.nn import functional

from bench.table import Row, print_table
from graticule.geo.sphere import format_km, great_circle_km
from graticule.model.positions import LocationEncoder
from graticule.zoo.models.geoclip import reach_km
from graticule.zoo.tensors import fill, read_tensors

POSITIONS = 200
COSINES = (1.0, 0.7, 0.3)
ROUNDS = (0, 1, 2, 3)


@torch.inference_mode()
def refine_rows(folder: Path, table: Path) -> list[Row]:
    """Median error from the gallery alone and after each round."""
    weights = next(folder.rglob("location_encoder_weights.pth"))
    encoder = LocationEncoder().eval()
    fill(encoder, read_tensors(weights), weights)
    gallery = pl.read_csv(weights.parents[1] / "gps_gallery" / "coordinates_100K.csv").to_numpy().astype(np.float32)
    degrees, reach = torch.from_numpy(gallery).double(), torch.from_numpy(reach_km(*gallery.astype(float).T))
    places = encoder.units(degrees)
    asked = pl.read_csv(table, columns=["lat", "lon"], ignore_errors=True).drop_nulls()
    lat, lon = asked.sample(POSITIONS, seed=0).cast(pl.Float64).to_numpy().T
    own = encoder.embed(lat, lon)
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    noise = functional.normalize(noise - (noise * own).sum(dim=1, keepdim=True) * own, dim=1)
    rows = []
    for cosine in COSINES:
        photo = cosine * own + (1 - cosine**2) ** 0.5 * noise
        best = (places @ photo.T).argmax(dim=0)
        found = [encoder.refined(photo, degrees[best], reach[best], rounds).numpy().T for rounds in ROUNDS]
        errors = [float(np.median(great_circle_km(lat, lon, *at))) for at in found]
        rows.append(Row(f"cosine {cosine:g}: median after {ROUNDS} rounds", ", ".join(map(format_km, errors))))
    return rows


if __name__ == "__main__":
    print_table(refine_rows(*map(Path, sys.argv[1:3])))
