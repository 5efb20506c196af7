"""What HTML pages are made of: pictures inside the page, thumbnails, and the templates of ``assets/``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from graticule.errors import BadPhotoError
from graticule.photos import images
from graticule.reporting import figures

THUMBNAIL_PX = 480


@dataclass(frozen=True, slots=True)
class Picture:
    """An image inside the page; ``alt`` is for who cannot see it."""

    uri: str
    alt: str


def picture(figure: Figure, alt: str) -> Picture:
    """A figure as a picture."""
    return Picture(figures.to_data_uri(figure), alt)


def thumbnail(path: Path, alt: str, longest_px: int = THUMBNAIL_PX) -> Picture | None:
    """A small JPEG, without the EXIF of its original; none where the photo is gone or broken."""
    try:
        jpeg = images.thumbnail(images.read_file(path), longest_px)
    except BadPhotoError:
        return None
    return Picture(images.data_uri(jpeg), alt)


def render(template: str, **values: Any) -> str:
    """A template of ``assets/`` as HTML; all values are escaped."""
    env = Environment(
        loader=PackageLoader("graticule", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return env.get_template(template).render(**values)
