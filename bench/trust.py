"""Whether a model trained here can tell a true claim from a false one, and a photo unlike its training from its own.

python -m bench.trust claims [TABLE]
python -m bench.trust strangers MODEL_OF_ONE TABLE_OF_ONE MODEL_OF_ANOTHER TABLE_OF_ANOTHER [MORE_TABLES...]

``claims`` asks five folds by place of the recipe ``laptop`` for the probability of a circle of 100 m around each
photo's own position, and around one moved in a random direction. ``strangers`` takes bundles that ``graticule train``
made, and asks each of its own test photos and of all photos of the other tables. Areas under ROC curves.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from bench.table import Row, print_table
from graticule.config import read_recipe
from graticule.evaluation.evaluate import choose_photos, training_photos
from graticule.geo.sphere import EARTH_RADIUS_KM
from graticule.inference.decode import STRANGE
from graticule.inference.locate import Locator, load
from graticule.model.features import default_store
from graticule.photos.splits import fold_masks
from graticule.photos.table import Photos, read_photos
from graticule.training.calibrate import fit_calibrated

TABLE = Path(__file__).parents[1] / ".." / "shared" / "data" / "san_francisco" / "manifest.csv"
OFF_KM = (0.0, 0.5, 2.0)
WITHIN_KM = 0.1
FOLDS = 5


def claims_rows(table: Path = TABLE) -> list[Row]:
    """True positions against moved ones."""
    if not table.is_file():
        return [Row("claims", f"skipped: {table} is absent")]
    photos, recipe, store = read_photos(table), read_recipe(Path("laptop")), default_store()
    rng = np.random.default_rng(0)
    probability: dict[float, list[float]] = {km: [] for km in OFF_KM}
    outside: dict[float, list[bool]] = {km: [] for km in OFF_KM}
    for rest, tested in fold_masks(photos, FOLDS, "place", recipe.seed, block_km=None, buffer_km=None):
        train, test = photos.take(rest & photos.may_train()), photos.take(tested)
        locator = Locator(fit_calibrated(recipe, train, by="place", store=store), store=store)
        turn = rng.uniform(0, 2 * np.pi, len(test))
        for km in OFF_KM:
            lat = test.lat + np.degrees(km / EARTH_RADIUS_KM) * np.cos(turn)
            lon = test.lon + np.degrees(km / EARTH_RADIUS_KM) * np.sin(turn) / np.cos(np.radians(test.lat))
            places = list(zip(lat.tolist(), lon.tolist(), strict=True))
            for result in locator.results(test.paths(), claims=places, within_km=WITHIN_KM):
                if result.fix and result.fix.claim and result.fix.claim.probability is not None:
                    probability[km].append(result.fix.claim.probability)
                    outside[km].append(result.fix.claim.region is None)
    rows = []
    for km in OFF_KM:
        name = "true position" if km == 0 else f"{km:g} km off"
        rows.append(Row(f"{name}: median probability within 100 m", f"{np.median(probability[km]):.3g}"))
        rows.append(Row("  outside the 95 % region", f"{np.mean(outside[km]):.1%}"))
        if km:
            rows.append(Row(f"  true against {km:g} km off", f"{area(probability[0], probability[km]):.3f}"))
    return rows


def strangers_rows(*asked: str) -> list[Row]:
    """Each model's own test photos against the photos of the others."""
    models, tables = [Path(path) for path in asked[:4:2]], [Path(path) for path in (*asked[1:4:2], *asked[4:])]
    rows = []
    for model, own in zip(models, tables, strict=False):
        locator = load(model)
        locator.store = default_store()
        test = unlike(locator, choose_photos(read_photos(own), training_photos(locator.bundle), "test"))
        rows.append(Row(f"{model.name}: unlike, of its own {len(test)} test photos", f"{np.mean(test >= STRANGE):.1%}"))
        for table in tables:
            if table != own:
                other = unlike(locator, read_photos(table))
                said = f"{np.mean(other >= STRANGE):.1%}, area {area(other, test):.3f}"
                rows.append(Row(f"  of {len(other)} of {table.parent.name}", said))
    return rows


def unlike(locator: Locator, photos: Photos) -> np.ndarray:
    found = [result.fix.unlike_training for result in locator.results(photos.paths()) if result.fix]
    return np.array(found, float)


def area(more: object, less: object) -> float:
    """Share of pairs in which the first is larger, ties by half."""
    both = np.concatenate([np.asarray(more, float), np.asarray(less, float)])
    return float(roc_auc_score(np.arange(len(both)) < len(np.asarray(more)), both))


if __name__ == "__main__":
    rows_of = {"claims": lambda *table: claims_rows(*map(Path, table)), "strangers": strangers_rows}
    print_table(rows_of[sys.argv[1]](*sys.argv[2:]))
