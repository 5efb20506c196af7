"""Calibrating a bundle that is there already, somebody else's or one's own, on photos of its user."""

import numpy as np
import polars as pl
import pytest
from public_weights import TINY, write_geoclip
from test_cli import graticule
from towns import make_town, photo, tiny_recipe

from graticule import zoo
from graticule.belief.calibration import conformal_level, coverage_within
from graticule.errors import BadTableError, LeakError
from graticule.inference.locate import Locator
from graticule.model.bundle import Bundle
from graticule.photos.table import read_photos
from graticule.training.calibrate import calibrate
from graticule.training.train import train
from graticule.zoo.models import geoclip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A bundle with a random tower, and photos at places near its gallery."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(geoclip.TOWER, "options", TINY)
        places = write_geoclip(folder / "files")[-1]
        bundle = zoo.get("geoclip", folder / "files")
    rng = np.random.default_rng(0)
    rows = rng.choice(len(places["LAT"]), 60, replace=False)
    for i in range(60):
        (folder / f"{i}.jpg").write_bytes(photo(i % 4, rng))
    positions = {
        "path": [f"{i}.jpg" for i in range(60)],
        "lat": places["LAT"][rows] + rng.normal(0, 0.1, 60),
        "lon": np.clip(places["LON"][rows], -179, 179),
    }
    pl.DataFrame(positions).write_csv(folder / "table.csv")
    return bundle, folder / "table.csv"


def test_a_public_model_answers_with_regions_once_it_is_calibrated(world, tmp_path):
    bundle, table = world
    bundle.write(tmp_path / "model")
    before = (tmp_path / "model" / "weights.safetensors").stat().st_mtime_ns
    done = graticule("calibrate", tmp_path / "model", table)
    assert done.returncode == 0, done.stderr
    assert "fitted to 60 photos of 60 places, photos of its user" in done.stdout
    assert "with 60 places its 90 % region holds between 83% and 96% of photos" in done.stdout
    assert (tmp_path / "model" / "weights.safetensors").stat().st_mtime_ns == before
    calibrated = Bundle.read(tmp_path / "model")
    assert calibrated.recipe.answer in ("median", "mode")  # whichever was nearer
    fix = Locator(calibrated).locate(table.parent / "0.jpg")
    assert fix.calibrated
    assert fix.region
    assert 0 < fix.median_error_km < fix.p90_error_km
    # A tower of random numbers knows nothing, so the belief ends near the map of the gallery.
    assert fix.median_error_km > 2000


def test_too_few_places_are_refused(world):
    bundle, table = world
    with pytest.raises(BadTableError, match="these 12 photos are of 12 places, and fewer than 20 tell too little"):
        calibrate(bundle, read_photos(table).take(np.arange(12)))


def test_photos_of_the_training_are_refused_unless_one_says_so(tmp_path):
    town = make_town(tmp_path / "town")
    bundle = train(tiny_recipe(), town, tmp_path / "bundle")
    others = make_town(tmp_path / "others", seed=1)
    with pytest.raises(LeakError, match="surer than it is"):
        calibrate(bundle, others, trained=town)
    found = calibrate(bundle, others, trained=town, allow_leak=True)
    assert found.recipe.answer == bundle.recipe.answer
    assert found.confidence.calibration.photos == 96
    done = graticule("calibrate", tmp_path / "bundle", tmp_path / "town" / "table.csv")
    assert done.returncode == 1
    assert "surer than it is" in done.stderr


def test_the_coverage_of_a_conformal_region_is_spread_as_it_says():
    rng = np.random.default_rng(0)
    held = [conformal_level(rng.random(50), np.arange(50), 0.9) for _ in range(4000)]  # of uniform scores: its coverage
    low, high = coverage_within(50, 0.9)
    assert np.quantile(held, [0.05, 0.95]) == pytest.approx([low, high], abs=0.01)
    assert coverage_within(5, 0.9) == (1.0, 1.0)
