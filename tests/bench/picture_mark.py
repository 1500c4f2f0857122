"""The README's picture of the page that regions are drawn on.

    python tests/bench/picture_mark.py .pictures/mark.jpg

Three regions on a photo (the astronaut, NASA, public domain), drawn with the pointer on the page itself: a box with a
reference, a scribble, a painted mask.
"""

import contextlib
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.browser import chromium
from tests.support.mark_page import Marking, opened, served
from tests.support.photos import PHOTOS

BRAND = {"mission patch.jpg": (130, 345, 212, 428), "shuttle.jpg": (330, 20, 480, 300)}


def draw(marking: Marking) -> None:
    page = marking.page
    marking.open(0)
    marking.drag((128, 343), (214, 430))
    page.locator(".region textarea").fill("Sharpen the mission patch")
    marking.press("Escape", "r")
    page.locator("#reference-list button").first.click()
    marking.press("n", "s")
    page.evaluate("setWidth(48)")
    marking.drag((283, 345), (318, 345), (284, 352), (320, 353), (285, 360), (322, 360), (288, 367), (322, 367))
    page.locator(".region textarea").nth(1).fill("Make the name badge legible")
    marking.press("Escape", "n", "m")
    page.evaluate("setWidth(62)")
    marking.drag((403, 60), (403, 225))
    marking.drag((390, 165), (385, 275), (437, 275), (428, 165))
    marking.drag((400, 235), (425, 235))
    page.locator(".region textarea").nth(2).fill("Restore the tiles of the shuttle")
    marking.press("Escape")
    page.mouse.move(5, 5)
    page.wait_for_timeout(7000)  # until the hint is gone
    marking.saved("3 regions in 1 image")


def main(out: str) -> None:
    path = Path(out).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the page shows what to type there
        photos, brand = Path(folder) / "photos", Path(folder) / "brand"
        photos.mkdir()
        brand.mkdir()
        for source in PHOTOS.glob("*.jpg"):
            (photos / source.name).write_bytes(source.read_bytes())
        with Image.open(PHOTOS / "astronaut.jpg") as photo:
            for name, box in BRAND.items():
                photo.crop(box).save(brand / name, quality=95)
        with (
            chromium() as browser,
            served(photos, brand) as address,
            opened(browser, address, viewport={"width": 1240, "height": 800}, color_scheme="light") as marking,
        ):
            draw(marking)
            shot = marking.page.screenshot()
    Image.open(io.BytesIO(shot)).convert("RGB").save(path, quality=85, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
