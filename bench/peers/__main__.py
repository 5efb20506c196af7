"""Imported models beside their own code, on random weights of the published shapes and names.

python -m bench.peers geoclip --python PEER/bin/python       # a venv with: pip install geoclip==1.3.0
python -m bench.peers streetclip --python PEER/bin/python    # the same, with transformers
python -m bench.peers osv5m --python PEER/bin/python --code OSV5M     # a clone of gastruc/osv5m
python -m bench.peers megaloc --python PEER/bin/python --code MEGALOC    # a clone of gmberton/MegaLoc

``theirs.py`` runs in the other environment: it makes the peer's own class, writes its weights as they are published and
says what it makes of some pixels. Then ``graticule get`` reads those files, and sees the same pixels.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from bench.table import Row, print_table
from graticule import zoo
from graticule.geo.sphere import from_vectors, great_circle_km
from graticule.geo.towns import largest_towns
from graticule.zoo.models.streetclip import TOWNS

APART = 1e-4


@torch.inference_mode()
def compare(name: str, folder: Path) -> list[Row]:
    """Rows of what was said by both of the same pixels; ``theirs.safetensors`` is what the peer said."""
    theirs = load_file(folder / "theirs.safetensors")
    model = zoo.get(name, folder, agreed="CC-BY-NC-4.0").model
    features = model.encoder(theirs["pixels"])
    if name == "megaloc":
        return [near("descriptors apart", features, theirs["said"], APART)]
    said = model.head(features)
    if name == "streetclip":
        photo = torch.nn.functional.normalize(model.head.layers(features), dim=1) * model.head.scale
        return agree(photo @ model.head.above.T, theirs["said"])
    if name == "geoclip":
        return agree(said.logits, theirs["said"])
    lat, lon = from_vectors(said.position.numpy())
    off = great_circle_km(lat, lon, *np.degrees(theirs["gps"].double().numpy()).T)
    rows = agree(said.logits, theirs["said"])
    return [*rows, Row("answers apart", f"{1000 * off.max():.2g} m", "under 1 m", bool(off.max() < 0.001))]


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> list[Row]:
    same = torch.equal(ours.topk(5).indices, theirs.topk(5).indices)
    shape = " x ".join(map(str, ours.shape))
    return [
        near(f"logits apart, {shape}", ours, theirs, APART),
        Row("top 5", "the same" if same else "other", "", same),
    ]


def near(what: str, ours: torch.Tensor, theirs: torch.Tensor, goal: float) -> Row:
    off = float((ours - theirs).abs().max())
    return Row(what, f"{off:.1e}, of numbers up to {float(theirs.abs().max()):.3g}", f"under {goal:g}", off < goal)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("name", choices=("geoclip", "streetclip", "osv5m", "megaloc"))
    parser.add_argument("--python", default="python3", help="of the environment with the peer's code")
    parser.add_argument("--code", default="", help="the folder with its code, where it is in no package")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        countries = sorted({row[0].country for row in largest_towns(TOWNS)})
        (folder / "names.json").write_text(json.dumps(countries))
        script = Path(__file__).with_name("theirs.py")
        subprocess.run([asked.python, str(script), asked.name, str(folder), asked.code], check=True)
        print_table(compare(asked.name, folder))


if __name__ == "__main__":
    main()
