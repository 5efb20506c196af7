"""Pictures of the page, a report and an audit, as wide screens and phones show them, by light and in the dark.

python -m tools.pictures OUT --url http://127.0.0.1:8017 --photo street.jpg --file report.html --file audit.html

The page is asked of a `graticule serve` that runs, on a photo; files are opened from disk. Needs playwright and
Chromium.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTHS = {1280: 800, 390: 844}  # and heights
SCHEMES = ("light", "dark")
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SLOWEST_MS = 300_000
PART = 2400  # pixels of a long page in one picture


def locate(page: Page, photo: Path) -> None:
    page.set_input_files("input[type=file][multiple]", str(photo))
    page.wait_for_selector(".answer:not(.waiting) h2")


def play(page: Page, _: Path) -> None:
    page.click("role=tab[name=Play]")
    page.fill("input[type=number]", "7")
    page.click("role=button[name=Start]")
    page.wait_for_selector(".round-photo")
    page.click("text=Pin in the middle of the map")
    page.click("role=button[name=Guess]")
    page.wait_for_selector("text=The model:")


def compare(page: Page, photo: Path) -> None:
    locate(page, photo)
    page.click("role=tab[name=Compare]")
    page.wait_for_selector("text=apart")


VIEWS: dict[str, Callable[[Page, Path], None]] = {"locate": locate, "play": play, "compare": compare}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("out", type=Path)
    asked.add_argument("--url")
    asked.add_argument("--photo", type=Path)
    asked.add_argument("--views", nargs="*", choices=VIEWS, default=["locate", "play"])
    asked.add_argument("--file", type=Path, action="append", default=[])
    given = asked.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)

        @contextmanager
        def opened(url: str, width: int, scheme: str) -> Iterator[Page]:
            context = chromium.new_context(
                viewport={"width": width, "height": WIDTHS[width]}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.set_default_timeout(SLOWEST_MS)
            page.goto(url)
            page.wait_for_selector("[data-ready]")
            yield page
            context.close()

        for width, scheme in product(WIDTHS, SCHEMES):
            for view in given.views if given.url else ():
                with opened(given.url, width, scheme) as page:
                    VIEWS[view](page, given.photo)
                    save(page, given.out / f"{view}-{width}-{scheme}.png")
            for file in given.file:
                with opened(file.resolve().as_uri(), width, scheme) as page:
                    save(page, given.out / f"{file.stem}-{width}-{scheme}.png")


def save(page: Page, to: Path) -> None:
    """Writes a picture, or several of a long page: Chromium repeats what is taller than its textures."""
    page.wait_for_selector(".map-canvas[data-still]")
    wide, tall, shown = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.scrollHeight, innerWidth]"
    )
    for part, top in enumerate(range(0, tall, PART)):
        clip = {"x": 0, "y": top, "width": shown, "height": min(PART, tall - top)}
        name = to if tall <= PART else to.with_stem(f"{to.stem}-{part}")
        page.screenshot(path=name, full_page=True, clip=clip)
    print(to, f"{wide - shown} px are cut off" if wide > shown else "")


if __name__ == "__main__":
    main()
