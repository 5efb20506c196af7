"""Views out of panoramas point where they say."""

import numpy as np
import polars as pl
import pytest
from conftest import encoded, exif_of, picture
from test_cli import graticule

from graticule.photos import images
from graticule.photos.panoramas import Area, perspective, whole

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {}/></rdf:RDF></x:xmpmeta>'
)


def rays(width, height):
    """A panorama whose colour is the direction: x right, y up, z ahead of the middle column, from -1..1 to 0..255."""
    lon = ((np.arange(width) + 0.5) / width - 0.5) * 2 * np.pi
    lat = (0.5 - (np.arange(height)[:, None] + 0.5) / height) * np.pi
    xyz = [np.cos(lat) * np.sin(lon), np.sin(lat) * np.ones(width), np.cos(lat) * np.cos(lon)]
    return np.round((np.stack(xyz, axis=-1) + 1) * 127.5).astype(np.uint8)


def seen(turn, field, width, height):
    """The directions of a pinhole camera's pixels, in the same colours."""
    reach = np.tan(np.radians(field / 2))
    x = reach * (2 * (np.arange(width) + 0.5) / width - 1) * np.ones((height, 1))
    y = reach * height / width * (1 - 2 * (np.arange(height)[:, None] + 0.5) / height) * np.ones(width)
    a = np.radians(turn)
    xyz = np.stack([x * np.cos(a) + np.sin(a), y, np.cos(a) - x * np.sin(a)], axis=-1)
    return (xyz / np.linalg.norm(xyz, axis=-1, keepdims=True) + 1) * 127.5


@pytest.mark.parametrize("turn", [0, 45, 90, 180, -135, 350])
@pytest.mark.parametrize(("field", "size"), [(90, (64, 64)), (60, (80, 48)), (120, (96, 64))])
def test_each_pixel_of_a_view_is_the_ray_of_a_pinhole_camera(turn, field, size):
    view = perspective(rays(720, 360), whole(720, 360), turn, field, *size)
    assert view.shape == (size[1], size[0], 3)
    assert np.abs(view - seen(turn, field, *size)).max() < 2.5


def test_a_view_of_few_pixels_averages_what_it_leaves_out():
    stripes = np.zeros((512, 1024, 3), np.uint8)
    stripes[:, ::2] = 255
    view = perspective(stripes, whole(1024, 512), 0, 90, 32, 32)
    assert np.abs(view.astype(int) - 127).max() < 40


def test_a_cropped_panorama_shows_only_the_views_that_lie_within():
    full = rays(720, 360)
    part = full[60:300, 100:400]  # its middle looks 55 degrees to the left of the whole one's
    area = Area(720, 360, 100, 60, 300, 240)
    view = perspective(part, area, 0, 90, 64, 64)
    assert np.abs(view - seen(-55, 90, 64, 64)).max() < 2.5
    assert perspective(part, area, 60, 90, 64, 64) is None
    small = part[::2, ::2]  # the picture was scaled down after its metadata were written
    assert np.abs(perspective(small, area, 0, 90, 32, 32) - seen(-55, 90, 32, 32)).max() < 5
    assert whole(640, 480) is None


def test_panoramas_of_a_dataset_become_views_of_one_place(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    known = XMP.format('GPano:ProjectionType="equirectangular" GPano:PoseHeadingDegrees="100"').encode()
    (folder / "pano.jpg").write_bytes(encoded(rays(720, 360), exif=exif_of(48.0, 2.0), xmp=known))
    (folder / "silent.jpg").write_bytes(encoded(rays(704, 352), exif=exif_of(48.1, 2.0)))
    (folder / "plain.jpg").write_bytes(encoded(picture(), exif=exif_of(48.2, 2.0)))
    assert graticule("data", "folder", folder, tmp_path / "town").returncode == 0
    done = graticule(
        "data", "panoramas", tmp_path / "town", tmp_path / "views", "--size", "80x60", "--headings", "0,270"
    )
    assert done.returncode == 0, done.stderr
    found = pl.read_parquet(tmp_path / "views/photos.parquet").sort("path")
    assert len(found) == 5
    views = found.filter(pl.col("place").is_not_null())
    assert sorted(views.filter(pl.col("lat") < 48.05)["heading"]) == pytest.approx([10, 100])
    assert views.filter(pl.col("lat") > 48.05)["heading"].null_count() == 2
    assert views["place"].n_unique() == 2
    assert set(views.select("width", "height").rows()) == {(80, 60)}
    ahead = images.decode((tmp_path / "views" / views["path"][0]).read_bytes())
    assert np.abs(ahead - seen(0, 90, 80, 60)).mean() < 4


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--headings", "north"), "--headings takes degrees"),
        (("--field-of-view", "180"), "a field of view from 10 to 150 degrees"),
        ((), "none of the 1 photos is a panorama"),
    ],
)
def test_views_that_cannot_be_cut_are_one_sentence(tmp_path, options, sentence):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/plain.jpg").write_bytes(encoded(picture(), exif=exif_of(48.2, 2.0)))
    graticule("data", "folder", tmp_path / "p", tmp_path / "town")
    done = graticule("data", "panoramas", tmp_path / "town", tmp_path / "views", *options)
    assert done.returncode == 1
    assert sentence in done.stderr
