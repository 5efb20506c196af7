import threading
import time

import matplotlib
import numpy as np
import polars as pl
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from graticule.explaining import heatmaps
from graticule.geo import borders, s2
from graticule.geo.sphere import great_circle_km
from graticule.partition import CellPartition
from graticule.partition.labels import LabelPartition
from graticule.reporting import figures, maps


def partition_of(cells, photos=None):
    cells = np.sort(np.asarray(cells, np.uint64))
    lat, lon = s2.centers(cells)
    counts = np.arange(1, len(cells) + 1) if photos is None else np.asarray(photos)
    return CellPartition(cells, counts.astype(np.int64), lat, lon)


def town(lat=38.9, lon=-77.03, spread=0.005, n=3000):
    rng = np.random.default_rng(0)
    lats, lons = lat + rng.normal(0, spread, n), lon + rng.normal(0, spread, n)
    lons = (lons + 180) % 360 - 180
    return CellPartition.fit(lats, lons, split_above=200, drop_below=20)


def drawn(figure, gid):
    (found,) = [a for a in figure.axes[0].get_children() if a.get_gid() == gid]
    return found


def polygons(figure):
    return [path.vertices for path in drawn(figure, "cells").get_paths()]


def texts(axis):
    axis.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


@pytest.mark.parametrize(
    ("kind", "lat", "lon"),
    [
        pytest.param("state", 37.0, -109.045, id="Four Corners"),
        pytest.param("coast", 63.4, -19.0, id="south of Iceland"),
        pytest.param("coast", -34.83, 20.0, id="Cape Agulhas"),
        pytest.param("country", 49.0, -110.0, id="Montana and Alberta"),
        pytest.param("country", 47.59, 7.59, id="Basel, where three countries meet"),
    ],
)
def test_borders_pass_where_they_should(kind, lat, lon):
    lats, lons = borders.lines(kind)
    # The 49th parallel is one long segment: look at points along the segments, not only at their ends.
    share = np.linspace(0, 1, 50)[:, None]
    along_lat, along_lon = (a[:-1] + share * np.diff(a) for a in (lats, lons))
    real = np.isfinite(along_lat)
    assert great_circle_km(lat, lon, along_lat[real], along_lon[real]).min() < 10


def test_borders_cover_the_earth_without_the_seams_of_a_flat_map():
    lat, lon = borders.lines("coast")
    assert (np.nanmin(lon), np.nanmax(lon), np.nanmax(lat)) == pytest.approx((-180, 180, 83.6), abs=0.1)
    on_seam = np.abs(lon) > 179.99
    assert not np.any(on_seam[:-1] & on_seam[1:])
    assert np.nanmin(lat) > -86, "the south edge of Antarctica on a flat map is no coast"


def test_unknown_borders_are_refused_with_the_known_ones_named():
    with pytest.raises(ValueError, match="coast, country, state"):
        borders.lines("county")


def test_a_cell_across_the_antimeridian_is_one_piece_and_never_crosses_the_map():
    cells = s2.parents(s2.leaf_cells([-17, -17, 65, 0.0], [179.9, -179.9, 180, 0.0]), 1)
    figure = figures.cells_map(partition_of(np.unique(cells)), title="far apart")
    assert figure.axes[0].get_xlim() == (-180, 180)
    assert max(np.ptp(polygon[:, 0]) for polygon in polygons(figure)) <= 180


def test_a_cell_that_leaves_the_world_map_on_one_side_enters_it_on_the_other():
    frame = maps.Frame(-180, 180, -90, 90)
    face = s2.face_cells()[3:4]  # centred on the antimeridian
    placed, rows = maps.copies(maps.rings(*s2.outlines(face, points_per_edge=8)), frame)
    assert rows.tolist() == [0, 0]
    spans = sorted((round(ring[:, 0].min()), round(ring[:, 0].max())) for ring in placed)
    assert spans == [(-225, -135), (135, 225)]


def area(ring):
    x, y = ring.T
    return 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def test_six_faces_cover_the_flat_map_exactly_once():
    rings = maps.rings(*s2.outlines(s2.face_cells(), points_per_edge=64))
    assert sum(map(area, rings)) == pytest.approx(360 * 180, rel=1e-6)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_cells_of_a_level_cover_the_flat_map_exactly_once(level):
    cells = s2.face_cells()
    for _ in range(level):
        cells = s2.children(cells).ravel()
    assert sum(map(area, maps.rings(*s2.outlines(cells, points_per_edge=32)))) == pytest.approx(360 * 180, rel=1e-5)


@pytest.mark.parametrize(("face", "pole"), [(2, 90), (5, -90)])
def test_a_cell_that_holds_a_pole_reaches_it_along_its_whole_width(face, pole):
    (ring,) = maps.rings(*s2.outlines(s2.face_cells()[face : face + 1], points_per_edge=8))
    assert np.ptp(ring[ring[:, 1] == pole, 0]) == pytest.approx(360)


def test_a_cell_with_a_pole_at_its_corner_is_a_quarter_of_the_cap():
    near_pole = s2.parents(s2.leaf_cells([89.9], [10.0]), 4)
    (ring,) = maps.rings(*s2.outlines(near_pole, points_per_edge=8))
    assert np.ptp(ring[:, 0]) == pytest.approx(90)
    assert np.ptp(ring[ring[:, 1] == 90, 0]) == pytest.approx(90)


def test_fiji_gets_a_small_map_with_wrapped_labels():
    figure = figures.cells_map(town(-17.8, 179.9, 0.5), title="Fiji")
    west, east = figure.axes[0].get_xlim()
    assert east - west < 20
    labels = texts(figure.axes[0].xaxis)
    assert any("E" in text for text in labels)
    assert any("W" in text for text in labels)


def test_photos_all_around_the_earth_get_the_customary_map():
    frame = maps.frame_around([0, 10, -40, 60], [-170, -60, 20, 140])
    assert (frame.west, frame.east) == (-180, 180)


def test_one_point_gets_a_map_of_a_street():
    frame = maps.frame_around([52.0], [13.0])
    assert 0.1 < frame.width_km < 1


def test_a_huge_cell_with_a_few_photos_does_not_push_a_town_into_a_corner():
    rng = np.random.default_rng(0)
    lat, lon = 38.9 + rng.normal(0, 0.003, 4000), -77.03 + rng.normal(0, 0.003, 4000)
    whole = CellPartition.fit(lat, lon, split_above=100, drop_below=1)
    west, east = figures.cells_map(whole, title="town").axes[0].get_xlim()
    assert (east - west) * 111 * np.cos(np.radians(38.9)) < 12


def test_a_city_map_has_a_scale_of_round_length_drawn_at_that_length():
    figure = figures.cells_map(town(), title="town")
    bar = drawn(figure, "scale")
    written = next(a.get_text() for a in figure.axes[0].texts)
    (west, east), y = bar.get_xdata(), np.mean(figure.axes[0].get_ylim())
    length_km = great_circle_km(y, west, y, east)
    assert written in {"200 m", "500 m", "1 km", "2 km"}
    number, unit = written.split()
    assert length_km == pytest.approx(float(number) / (1000 if unit == "m" else 1), rel=1e-3)


def test_a_kilometre_is_equally_long_both_ways():
    axes = figures.cells_map(town(60.0, 25.0), title="Helsinki").axes[0]
    axes.figure.canvas.draw()
    corner, east, north = axes.transData.transform([(25.0, 60.0), (25.02, 60.0), (25.0, 60.01)])
    assert east[0] - corner[0] == pytest.approx(north[1] - corner[1], rel=0.01)


def test_coarse_borders_stay_out_of_a_city_and_on_the_map_of_a_country():
    kinds = set(borders.KINDS)
    assert not kinds & {a.get_gid() for a in figures.cells_map(town(), title="").axes[0].get_children()}
    country = figures.cells_map(town(39, -105, 3), title="")
    assert kinds <= {a.get_gid() for a in country.axes[0].get_children()}


@pytest.mark.parametrize(("width_km", "expected"), [(2, 0.5), (8, 2), (7.9, 1), (300, 50), (0.3, 0.05)])
def test_scale_km(width_km, expected):
    assert maps.scale_km(width_km) == pytest.approx(expected)


def test_four_thousand_cells_are_drawn_fast():
    cells = s2.children(
        s2.children(s2.children(s2.children(s2.children(s2.face_cells()).ravel()).ravel()).ravel()).ravel()
    )
    whole = partition_of(cells.ravel()[:4000])
    start = time.monotonic()
    figures.to_data_uri(figures.cells_map(whole, title="many"))
    assert time.monotonic() - start < 15  # under 2 s on a quiet machine


def test_cells_with_one_count_each_have_a_colour():
    figure = figures.cells_map(partition_of(s2.face_cells(), [5] * 6), title="even")
    assert not isinstance(drawn(figure, "cells").norm, LogNorm)


def test_one_count_has_one_tick_and_few_counts_have_whole_ones():
    for counts, labels in (([595] * 6, ["595"]), ([1, 1, 2, 2, 3, 3], ["1", "2", "3"])):
        figure = figures.cells_map(partition_of(s2.face_cells(), counts), title="few")
        assert texts(figure.axes[1].yaxis) == labels


def test_the_keys_of_a_map_hide_no_part_of_it():
    figure = figures.probability_map(town(), np.ones(len(town())), truth=(38.9, -77.03), guess=(38.9, -77.02))
    figure.canvas.draw()
    axes = figure.axes[0]
    keys, degrees = axes.get_legend().get_window_extent(), axes.xaxis.get_tightbbox()
    assert keys.y1 < degrees.y0 < axes.bbox.y0
    assert keys.y0 > 0


def test_a_sure_answer_fills_its_map_and_an_unsure_one_shows_all():
    faces = partition_of(np.r_[s2.face_cells()[1:], town().cells])
    small = int(np.searchsorted(faces.cells, town().cells[0]))
    spans = []
    for sure in (0.99, 0.1):
        probability = np.full(len(faces), (1 - sure) / (len(faces) - 1))
        probability[small] = sure
        west, east = figures.probability_map(faces, probability).axes[0].get_xlim()
        spans.append(east - west)
    assert spans[0] < 1
    assert spans[1] == 360


def test_likelier_cells_are_brighter():
    whole = town()
    figure = figures.probability_map(
        whole, np.linspace(0.001, 1, len(whole)), truth=(38.9, -77.03), guess=(38.9, -77.02)
    )
    figure.canvas.draw()
    cells = drawn(figure, "cells")
    order = np.argsort(cells.get_array())
    brightness = cells.get_facecolor()[order, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(brightness) > -0.01).all()
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == ["truth", "best guess"]


def test_an_error_across_the_antimeridian_is_a_short_line():
    figure = figures.errors_map([0, 0], [179, 10], [0, 0], [-179, 12], [222, 222])
    spans = [np.ptp(path.vertices[:, 0]) for path in drawn(figure, "errors").get_paths()]
    assert spans == pytest.approx([2.0] * len(spans))


def test_distances_below_a_kilometre_are_labelled_in_metres():
    figure = figures.error_distribution(np.geomspace(0.01, 100, 50))
    labels = texts(figure.axes[0].xaxis)
    assert {"10 m", "100 m", "1 km", "10 km"} <= set(labels)


def test_the_error_distribution_survives_perfect_guesses_and_names_its_percentiles():
    figure = figures.error_distribution(
        [0, 0, 0.05, 0.05, 2.0], intervals={"median_km": (0, 0.1)}, expected_error_km=[0.1]
    )
    named = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "median: 50 m" in named
    assert "expected by the model" in named


def test_learning_curves_leave_out_what_was_not_measured():
    rows = pl.DataFrame({"epoch": [1, 2, 3], "train_loss": [3.0, 2.0, 1.5], "val_loss": [None, None, None]})
    (axes,) = figures.learning_curves(rows).axes
    assert [line.get_label() for line in axes.get_lines()] == ["training photos"]
    full = {
        "epoch": [1, 2],
        "train_loss": [3, 2],
        "val_loss": [3, None],
        "val_median_km": [0.4, 0.3],
        "lr": [1e-3, 1e-4],
    }
    assert [axes.get_ylabel() for axes in figures.learning_curves(full).axes] == [
        "loss",
        "median error",
        "learning rate",
    ]


def test_learning_curves_mark_where_a_stage_begins():
    rows = {"epoch": [1, 2, 3, 4], "stage": [1, 1, 2, 3], "train_loss": [4.0, 3, 2, 1]}
    (axes,) = figures.learning_curves(rows).axes
    assert [line.get_xdata()[0] for line in axes.get_lines() if line.get_gid() == "stage"] == [2.5, 3.5]
    (axes,) = figures.learning_curves(rows | {"stage": [1] * 4}).axes
    assert len(axes.get_lines()) == 1


def test_no_two_methods_share_a_line_style_and_the_keys_hide_no_curve():
    share = np.linspace(0, 1, 5)
    methods = ("random", "occlusion", "saliency", "integrated-gradients", "gradcam")
    figure = heatmaps.faithfulness(dict.fromkeys(methods, (share, 1 - share, share)))
    figure.canvas.draw()
    for axes in figure.axes:
        assert len({(line.get_color(), str(line._dash_pattern)) for line in axes.get_lines()}) == len(methods)
        assert axes.get_legend().get_window_extent().y1 < axes.xaxis.get_tightbbox().y0


def test_learning_curves_without_epochs_say_what_they_need():
    with pytest.raises(KeyError, match="epoch"):
        figures.learning_curves({"loss": [1.0]})


def test_the_leak_histogram_shows_shares_by_distance():
    figure = figures.leak_histogram([0.005, 0.1, 5], [50, 25, 25, 0], subtitle="random frames")
    axes = figure.axes[0]
    assert [round(bar.get_height(), 2) for bar in axes.patches] == [0.5, 0.25, 0.25, 0]
    assert texts(axes.xaxis) == ["≤ 5 m", "5 m –\n100 m", "100 m –\n5 km", "> 5 km"]
    with pytest.raises(ValueError, match="4 bins"):
        figures.leak_histogram([0.005, 0.1, 5], [1, 2, 3])


def test_the_map_of_a_split_tells_its_sides_by_colour_and_shape_across_the_antimeridian(monkeypatch):
    monkeypatch.setattr(figures, "MOST_DOTS", 30)
    lon = np.linspace(179, 181, 40)
    lon = (lon + 180) % 360 - 180
    figure = figures.split_map(np.full(40, -17.0), lon, np.full(20, -17.5), lon[:20])
    train, test = figure.axes[0].collections
    assert (len(train.get_offsets()), len(test.get_offsets())) == (20, 10)
    assert np.ptp(train.get_offsets()[:, 0]) == pytest.approx(2)
    assert tuple(train.get_facecolor()[0][:3]) != tuple(test.get_facecolor()[0][:3])
    assert len(train.get_paths()[0].vertices) > len(test.get_paths()[0].vertices)  # a dot, a triangle
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "training: 40 photos, 20 drawn",
        "test: 20 photos, 10 drawn",
    ]


SYNTHETIC = {
    "split_map": lambda **k: figures.split_map([1, 2], [3, 4], [1], [4], **k),
    "cells_map": lambda **k: figures.cells_map(town(), title="cells", **k),
    "probability_map": lambda **k: figures.probability_map(town(), np.ones(len(town())), **k),
    "photos_per_cell": lambda **k: figures.photos_per_cell([5, 2, 9], **k),
    "error_distribution": lambda **k: figures.error_distribution([0.1, 0.2], **k),
    "errors_map": lambda **k: figures.errors_map([1, 2], [1, 2], [1.1, 2], [1, 2.1], [11, 11], **k),
    "learning_curves": lambda **k: figures.learning_curves({"epoch": [1], "train_loss": [2.0]}, **k),
    "leak_histogram": lambda **k: figures.leak_histogram([1], [2, 3], **k),
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_every_figure_says_synthetic_when_it_is_and_only_then(name):
    for synthetic in (True, False):
        figure = SYNTHETIC[name](synthetic=synthetic)
        words = [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes)]
        assert any("synthetic" in text for text in words) == synthetic


def test_figures_can_be_made_in_threads_and_leave_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(figures.to_data_uri(figures.photos_per_cell([3, 1]))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert made[0].startswith("data:image/png;base64,iVBOR")
    assert dict(matplotlib.rcParams) == before


def test_save_writes_a_whole_png(tmp_path):
    figure = figures.photos_per_cell([3, 1])
    assert isinstance(figure, Figure)
    path = figures.save(figure, tmp_path / "deep" / "cells.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["cells.png"]


def test_countries_are_drawn_by_their_borders_and_not_around_their_photos():
    paris, guadeloupe, bern = (48.86, 2.35), (16.25, -61.55), (46.95, 7.45)
    spots = [paris, (43.3, 5.4), (48.4, -4.5), guadeloupe, bern, (47.4, 8.5), (46.2, 6.1)]
    lat, lon = np.repeat(np.array(spots), 3, axis=0).T
    labels = np.repeat(["FR"] * 4 + ["CH"] * 3, 3)
    partition = LabelPartition.fit(lat, lon, labels, column="country")
    figure = figures.cells_map(partition, title="countries")
    [cells] = [artist for artist in figure.axes[0].collections if artist.get_gid() == "cells"]
    paths, photos = cells.get_paths(), cells.get_array()

    def class_at(lat, lon):
        return [photos[i] for i, path in enumerate(paths) if path.contains_point((lon, lat))]

    corsica = (42.1, 9.1)
    assert class_at(*paris) == class_at(*corsica) == [12]
    assert class_at(*bern) == [9]
    assert class_at(35.0, -30.0) == []  # the open Atlantic, within the hull of all that is France


def test_names_of_countries_are_known_as_letters_and_in_english_and_cities_are_none():
    france, same, unknown = borders.countries_of(["FR", "france ", "Atlantis"])
    assert len(france) == len(same) > 5
    [russia] = borders.countries_of(["RU"])
    rings = maps.rings(*zip(*russia, strict=True))
    assert max(np.abs(np.diff(ring[:, 0])).max() for ring in rings) < 180  # over the antimeridian in one piece
    assert unknown == []
    assert all(borders.countries_of(["United States", "Bosnia and Herzegovina", "South Sudan"]))  # not as on the map
    assert borders.countries_of(["Paris", "Lyon", "Nice"]) is None
