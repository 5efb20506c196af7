"""What the figures of an evaluation come to, in sentences."""

from graticule.evaluation.verdicts import verdicts

GOOD = {
    "photos": 400, "places": 200, "split": "test", "median_km": 0.15, "coverage_90": 0.88, "bits": 2.0,
    "intervals": {"coverage_90": [0.84, 0.92]},
}  # fmt: skip


def neighbours(median_km, difference):
    nearest = {"median_km": 9.0, "median_difference_km": [-9.0, -8.0]}
    density = {"median_km": median_km, "median_difference_km": difference}
    return {"others": {"nearest neighbour": nearest, "density of neighbours": density}}


def test_good_figures_of_enough_photos_need_no_word():
    assert verdicts(GOOD) == []


def test_the_better_of_the_neighbours_is_what_training_must_beat():
    assert verdicts(GOOD | neighbours(0.26, [-0.2, -0.05])) == [
        "training is worth it: the density of the nearest training photos is 260 m off, this model 150 m"
    ]
    assert verdicts(GOOD | neighbours(0.16, [-0.2, 0.05])) == [
        "the density of the nearest training photos is as good (160 m against 150 m): the encoder does the work here, "
        "training adds little"
    ]
    assert verdicts(GOOD | neighbours(0.1, [0.01, 0.2])) == [
        "the density of the nearest training photos is nearer (100 m) than this model (150 m): training makes it "
        "worse here"
    ]


def test_answered_together_is_no_neighbour():
    assert verdicts(GOOD | {"others": {"answered together": {"median_km": 0.1}}}) == []


def test_regions_are_too_small_or_too_large_only_where_the_interval_says_so():
    small = GOOD | {"coverage_90": 0.6875, "intervals": {"coverage_90": [0.43, 0.89]}}
    assert verdicts(small) == [
        "the 90 % regions are too small here: they hold 69% of these photos (43% to 89%), so it believes itself surer "
        "than it is"
    ]
    large = GOOD | {"coverage_90": 0.99, "intervals": {"coverage_90": [0.97, 1.0]}}
    assert "too large here: they hold 99%" in verdicts(large)[0]


def test_a_model_that_knows_less_than_its_map_is_told():
    assert verdicts(GOOD | {"bits": -0.1}) == [
        "it knows less of these photos than the map of its training photos alone"
    ]


def test_few_photos_are_told_and_what_to_do():
    assert verdicts(GOOD | {"photos": 16, "places": 14}) == [
        "16 photos of 14 places: the intervals are wide; graticule crossval asks about every photo in turn"
    ]
    folds = {name: value for name, value in GOOD.items() if name != "split"}
    assert verdicts(folds | {"photos": 16, "places": 14})[0].endswith("more photos narrow them")
