import json

import numpy as np
import polars as pl
import pytest
from conftest import encoded, picture
from PIL import Image, ImageFilter
from test_cli import graticule
from towns import make_town, tiny_recipe

from graticule.errors import BadRecipeError, BadTableError
from graticule.evaluation.evaluate import evaluate
from graticule.evaluation.folds import crossval
from graticule.photos.measures import measure
from graticule.photos.quality import MARKING, REASONS, Limits, apply, check, clear
from graticule.photos.table import read_photos
from graticule.reporting.contact_sheets import write_contact
from graticule.training.train import train


def street(seed=0, width=320, height=240):
    """A day scene: smooth light with sharp edges in it."""
    rng = np.random.default_rng(seed)
    scene = picture(width, height, seed).astype(np.float64) * 0.6 + 70
    for _ in range(80):
        y, x = rng.integers(0, height - 40), rng.integers(0, width - 40)
        scene[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = rng.integers(40, 240, 3)
    return scene.astype(np.uint8)


def panorama(seed=0):
    """A picture whose right side goes on at its left."""
    half = street(seed, 256, 256)
    return np.concatenate([half, half[:, ::-1]], axis=1)


def tile(text=30):
    grey = np.full((240, 320, 3), 190, np.uint8)
    grey[100:130, 100 : 100 + 4 * text : 4] = 60
    return grey


def blurred(pixels, radius):
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def dataset(folder, photos, **columns):
    """A dataset of pictures, some kilometres apart unless positions are given."""
    folder.mkdir(parents=True)
    rows = []
    for i, pixels in enumerate(photos):
        (folder / f"{i:02}.jpg").write_bytes(encoded(pixels, quality=92) if isinstance(pixels, np.ndarray) else pixels)
        rows.append({"path": f"{i:02}.jpg", "lat": 48.013 + i / 10, "lon": 2.037})
    table = pl.DataFrame(rows).with_columns(pl.Series(name, values) for name, values in columns.items())
    table.write_parquet(folder / "photos.parquet")
    (folder / "dataset.json").write_text("{}")
    return folder


def reasons_of(folder, limits=None):
    return check(read_photos(folder), limits).frame["reasons"].to_list()


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        pytest.param(street(), None, id="a street"),
        pytest.param((street() * 0.15).astype(np.uint8), "black", id="a black frame"),
        pytest.param((street() * 0.35).astype(np.uint8), "night", id="a dark street"),
        pytest.param((street() * 0.05 + 120).astype(np.uint8), "flat", id="a fog"),
        pytest.param(np.clip(street() * 2.5 + 20, 0, 255).astype(np.uint8), "overexposed", id="a white frame"),
        pytest.param(tile(), "placeholder", id="a grey tile with text"),
        pytest.param(blurred(street(), 14), "blurred", id="out of focus"),
        pytest.param(blurred(street(), 1), None, id="a little soft"),
        pytest.param(panorama(), "panorama", id="a full turn"),
        pytest.param(street(width=512, height=256), None, id="wide, but no full turn"),
        pytest.param(b"\xff\xd8\xff no photo", "unreadable", id="no photo"),
    ],
)
def test_each_fault_has_its_reason(tmp_path, pixels, reason):
    assert reasons_of(dataset(tmp_path / "d", [pixels])) == [[reason] if reason else []]


@pytest.mark.parametrize(
    ("limit", "measured", "reason"),
    [
        ("black_below", "bright", "black"),
        ("flat_below", "contrast", "flat"),
        ("overexposed_above", "white", "overexposed"),
        ("placeholder_above", "level", "placeholder"),
        ("blurred_below", "edge", "blurred"),
        ("night_below", "mean", "night"),
    ],
)
def test_a_limit_divides_just_where_it_says(tmp_path, limit, measured, reason):
    folder = dataset(tmp_path / "d", [street()])
    value = check(read_photos(folder)).frame[measured][0]
    for nudge, expected in ((1e-6, limit.endswith("below")), (-1e-6, limit.endswith("above"))):
        [found] = reasons_of(folder, Limits().changed([f"{limit}={value + nudge}"]))
        assert (reason in found) == expected


def test_sharpness_does_not_depend_on_the_size_or_the_exposure():
    scene = Image.fromarray(street(width=1280, height=960)).filter(ImageFilter.GaussianBlur(1))
    small, dark = scene.resize((640, 480), Image.Resampling.BOX), scene.point(lambda grey: grey * 0.4)
    edges = [measure(np.asarray(image)).edge for image in (scene, small, dark)]
    np.testing.assert_allclose(edges, edges[0], rtol=0.06)


def test_every_near_duplicate_but_the_first_is_named_with_what_it_repeats(tmp_path):
    scene, other = street(), street(9)
    noisy = np.clip(scene + np.random.default_rng(0).normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
    folder = dataset(tmp_path / "d", [scene, noisy, other, scene], lat=[48.0131, 48.0132, 48.0132, 48.2])
    frame = check(read_photos(folder)).frame
    assert frame["reasons"].to_list() == [[], ["near-duplicate"], [], []]
    assert frame["like"].to_list() == [None, "00.jpg", None, None]


def test_an_unreadable_photo_blurs_no_hash(tmp_path):
    scene = street()
    other = scene.copy()
    other[-30:] = scene[-30:, ::-1]  # only the last row of the hash differs, its lowest eight bits
    folder = dataset(tmp_path / "d", [scene, other, b"\xff\xd8\xff no photo"], lat=[48.0131] * 3)
    alone = Limits().changed(["duplicate_bits=0"])
    assert reasons_of(folder, alone) == [[], [], ["unreadable"]]


def test_a_dataset_may_be_all_unreadable(tmp_path):
    assert reasons_of(dataset(tmp_path / "d", [b"no photo"] * 2)) == [["unreadable"]] * 2


def test_a_photo_is_no_repeat_of_one_that_will_not_train(tmp_path):
    folder = dataset(tmp_path / "d", [street(), street()], lat=[48.0, 48.0003], lon=[2.0, 2.0001])
    assert reasons_of(folder) == [["impossible position"], []]


def test_black_frames_are_black_and_not_each_others_repeats(tmp_path):
    folder = dataset(tmp_path / "d", [np.zeros((64, 64, 3), np.uint8)] * 3, lat=[48.013] * 3)
    assert reasons_of(folder) == [["black"]] * 3


def test_one_picture_at_three_places_is_a_placeholder(tmp_path):
    assert reasons_of(dataset(tmp_path / "d", [street()] * 3 + [street(5)])) == [["placeholder"]] * 3 + [[]]


@pytest.mark.parametrize(("lat", "lon"), [(0.0, 0.0), (48.0, 2.0), (0.0002, -0.0003)])
def test_positions_that_no_camera_had_are_impossible(tmp_path, lat, lon):
    folder = dataset(tmp_path / "d", [street(), street(1)], lat=[lat, 48.5], lon=[lon, 2.0])
    assert reasons_of(folder) == [["impossible position"], []]


def test_a_leap_within_a_sequence_is_impossible(tmp_path):
    times = [f"2024-05-01T10:00:{second:02}" for second in (0, 10, 20, 30)]
    lat = [48.0131, 48.0141, 48.9, 48.0161]
    folder = dataset(tmp_path / "d", [street(i) for i in range(4)], lat=lat, sequence=["a"] * 4, captured_at=times)
    assert reasons_of(folder) == [[], [], ["impossible position"], []]


def test_photos_taken_standing_still_are_a_burst(tmp_path):
    times = [f"2024-05-01T10:00:{second:02}" for second in range(12)]
    photos = [street(i) for i in range(12)]
    folder = dataset(tmp_path / "d", photos, lat=[48.0131] * 12, creator=["x"] * 12, captured_at=times)
    assert reasons_of(folder) == [[]] + [["burst"]] * 11


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("quality", ["good", "slightly poor", "very poor"], "poor quality"),
        ("glare", ["no", None, "yes"], "glare"),
        ("reflection", ["no", "no", "yes"], "reflection"),
        ("pano_status", [False, None, True], "panorama"),
        ("lighting_condition", ["day", "dusk/dawn", "night"], "night"),
        ("view_direction", ["front/back", None, "side"], "side view"),
        ("projection_type", ["perspective", "brown", "spherical"], "panorama"),
        ("camera_type", ["perspective", None, "fisheye"], "fisheye"),
    ],
)
def test_attributes_that_a_dataset_brings_are_used(tmp_path, column, values, reason):
    folder = dataset(tmp_path / "d", [street(i) for i in range(3)], **{column: values})
    assert reasons_of(folder) == [[], [], [reason]]


def test_a_dark_photo_whose_owner_says_day_is_not_night(tmp_path):
    dark = [(street(i) * 0.35).astype(np.uint8) for i in range(2)]
    assert reasons_of(dataset(tmp_path / "d", dark, lighting_condition=["day", None])) == [[], ["night"]]


def test_what_could_not_be_looked_for_is_said(tmp_path):
    checks = check(read_photos(dataset(tmp_path / "d", [street()])))
    assert checks.unknown["glare"] == "no column glare"
    assert {"burst", "leaps within a sequence"} <= checks.unknown.keys()


def test_marks_are_written_replaced_and_taken_away_and_no_row_is_lost(tmp_path):
    photos = [
        street(),
        (street(1) * 0.1).astype(np.uint8),
        (street(2) * 0.35).astype(np.uint8),
        b"\xff\xd8\xff no photo",
    ]
    folder = dataset(tmp_path / "d", photos, note=["a", "b", "c", "d"])
    before = pl.read_parquet(folder / "photos.parquet")
    checks = check(read_photos(folder))
    for _ in range(2):
        assert apply(folder, checks) == 2
        after = pl.read_parquet(folder / "photos.parquet")
        assert after["marked"].to_list() == [None, "black", None, "unreadable"]
        assert after.drop("marked").equals(before)
        checks = check(read_photos(folder))  # marks change nothing of what is found
    apply(folder, checks, ["night"])
    assert read_photos(folder).may_train().tolist() == [True, True, False, True]
    clear(folder)
    assert pl.read_parquet(folder / "photos.parquet").equals(before)
    assert sorted(path.name for path in folder.glob("*.jpg")) == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]


def test_a_photo_with_two_reasons_carries_both(tmp_path):
    dark = (street() * 0.35).astype(np.uint8)
    checks = check(read_photos(dataset(tmp_path / "d", [dark, dark], lat=[48.0131, 48.0132])))
    assert checks.marks(["near-duplicate", "night"]).to_list() == ["night", "near-duplicate; night"]


def test_marks_of_another_table_are_refused(tmp_path):
    checks = check(read_photos(dataset(tmp_path / "one", [street()])))
    other = dataset(tmp_path / "two", [street(), street(1)])
    with pytest.raises(BadTableError, match="check it again"):
        apply(other, checks)
    with pytest.raises(BadTableError, match="is a table"):
        apply(other / "photos.parquet", checks)


def test_unknown_reasons_and_limits_are_refused_with_the_known_ones(tmp_path):
    checks = check(read_photos(dataset(tmp_path / "d", [street()])))
    with pytest.raises(BadRecipeError, match="near-duplicate"):
        checks.marks(["ugly"])
    with pytest.raises(BadRecipeError, match="night_below=60"):
        Limits().changed(["night=3"])
    with pytest.raises(BadRecipeError, match="whole number"):
        Limits().changed(["burst_photos=3.5"])


@pytest.fixture(scope="module")
def marked_town(tmp_path_factory):
    """A town with every tenth photo marked."""
    town = make_town(tmp_path_factory.mktemp("town"))
    marks = pl.when(pl.int_range(pl.len()) % 10 == 0).then(pl.lit("black")).alias("marked")
    town.frame.with_columns(marks).write_parquet(town.root / "marked.parquet")
    return read_photos(town.root / "marked.parquet")


def test_marked_photos_never_train_and_are_still_asked_about(marked_town, tmp_path):
    marked = set(marked_town.frame.filter(~marked_town.may_train())["path"])
    bundle = train(tiny_recipe(train={"epochs": 1}), marked_town, tmp_path / "bundle")
    split = dict(pl.read_parquet(tmp_path / "bundle/training/photos.parquet").select("path", "split").iter_rows())
    assert not marked & {path for path, part in split.items() if part == "train"}
    assert {"marked", "test"} <= {split[path] for path in marked} <= {"marked", "val", "test"}
    assert bundle.facts["photos"] == sum(part == "train" for part in split.values())
    assert bundle.partition.photos.sum() == bundle.facts["photos"]
    assert bundle.facts["split"]["marked"] == sum(part == "marked" for part in split.values())
    found = evaluate(bundle, marked_town)
    asked = set(found.rows["path"])
    assert asked == {path for path, part in split.items() if part == "test"}
    fine = found.rows.filter(~pl.col("path").is_in(marked))
    assert found.metrics["unmarked"]["photos"] == len(fine) < len(asked)
    assert found.metrics["unmarked"]["median_km"] == pytest.approx(np.median(fine["error_km"]))


def test_marked_photos_train_in_no_fold(marked_town, monkeypatch):
    trained = []

    def watched(recipe, photos, **options):
        trained.extend(photos.frame["path"])
        return fit(recipe, photos, **options)

    from graticule.evaluation import folds as room

    fit = room.fit_calibrated
    monkeypatch.setattr(room, "fit_calibrated", watched)
    found = crossval(tiny_recipe(train={"epochs": 1}), marked_town, folds=2, group="sequence")
    fine = set(marked_town.frame.filter(marked_town.may_train())["path"])
    assert set(trained) == fine
    assert found.metrics["photos"] == len(marked_town)
    assert found.metrics["never_trained"] == len(marked_town) - len(fine)
    assert found.metrics["unmarked"]["photos"] == len(fine)


def test_the_command_tells_shows_and_marks(tmp_path):
    night = (street(2) * 0.35).astype(np.uint8)
    folder = dataset(tmp_path / "d", [street(), (street(1) * 0.1).astype(np.uint8), night, b"\xff\xd8\xff no photo"])
    told = graticule("data", "check", folder)
    assert told.returncode == 0, told.stderr
    assert "2 of 4 photos would be marked by --apply" in told.stdout
    assert "not looked for:" in told.stdout
    assert "glare" in told.stdout
    assert "marked" not in pl.read_parquet_schema(folder / "photos.parquet")
    checks = pl.read_parquet(folder / "check/checks.parquet")
    assert checks["reasons"].to_list() == [[], ["black"], ["night"], ["unreadable"]]
    page = (folder / "check/contact.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2  # black and night; the fine one is far from every limit
    assert "Not looked for: burst" in page
    done = graticule("data", "check", folder, "--apply", "--mark", "night", "--limit", "night_below=10", "--json")
    assert json.loads(done.stdout)["reasons"]["night"] == 0
    assert json.loads(done.stdout)["marked"] == 0
    graticule("data", "check", folder, "--apply", "--mark", "night")
    assert pl.read_parquet(folder / "photos.parquet")["marked"].to_list() == [None, None, "night", None]
    assert graticule("data", "check", folder, "--clear").returncode == 0
    assert "marked" not in pl.read_parquet_schema(folder / "photos.parquet")


def test_a_plain_table_is_checked_where_the_findings_have_a_place(tmp_path):
    table = dataset(tmp_path / "d", [street()]) / "photos.parquet"
    refused = graticule("data", "check", table)
    assert refused.returncode == 1
    assert "--out" in refused.stderr
    assert graticule("data", "check", table, "--out", tmp_path / "found").returncode == 0
    assert (tmp_path / "found/contact.html").exists()


def test_the_page_shows_both_sides_of_a_limit_and_the_pairs(tmp_path):
    scenes = [street(), street(), *((street(i) * 0.35).astype(np.uint8) for i in range(3))]
    photos = read_photos(dataset(tmp_path / "d", scenes, lat=[48.0131, 48.0132, 48.3, 48.4, 48.5]))
    near = Limits(night_below=0.85 * measure(street()).mean)
    for limits, beside in ((near, 1), (None, 0)):  # by the usual limit, no photo is nearly a night
        page = write_contact(photos, check(photos, limits), tmp_path / "c.html", each=2, beside=1).read_text()
        sheet = page[page.index('<h2 id="night"') :]
        titles = ("drawn at random", "and this reason", "and not this reason")
        assert [sheet.count(title) for title in titles] == [1, 1, beside]
        assert sheet.count("<figure>") == 3 + beside
    pairs = page[page.index('<h2 id="near-duplicate"') :]
    assert pairs.index("00.jpg") < pairs.index("01.jpg")


def test_what_marks_by_itself_is_what_teaches_nothing():
    assert set(MARKING) < REASONS.keys()
    assert not {"night", "blurred", "panorama", "burst", "side view"} & set(MARKING)


def test_the_real_webcams_have_their_black_frames_and_their_tile(real_data):
    photos = read_photos(real_data / "webcams_world/manifest.csv")
    checks = check(photos.take(np.arange(0, len(photos), 8)))
    dark = checks.frame.filter(pl.col("reasons").list.contains("black"))
    # The collection's own table knows the mean grey of each photo, measured by others.
    grey = photos.frame.select("path", "gray_mean")
    assert dark.join(grey, on="path")["gray_mean"].max() < 45
    assert grey.join(checks.frame, on="path").filter(pl.col("gray_mean") < 10)["reasons"].list.contains("black").all()
