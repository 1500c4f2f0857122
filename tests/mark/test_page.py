"""The page in a real browser, served by the command as a person starts it, killed, and started again."""

import signal
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from flows.cli.check import check_manifest
from refine_ops.config import RefineBatchConfig
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.support.browser import chromium
from tests.support.mark_page import command, opened, served
from tests.support.node import FAST, run_node
from tests.support.photos import PHOTOS

pytestmark = pytest.mark.processes

HOSTILE = "<img src=x onerror=window.pwned=1>&amp;{{7*7}}.jpg"
SCALE = (451 / 512, 300 / 512)
"""Of the turned photo to the first one."""
PROMPT = 'Sharpen "the patch" <b>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name, source in (("astronaut.jpg", "astronaut.jpg"), (HOSTILE, "coffee.jpg")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes((PHOTOS / source).read_bytes())
    with Image.open(PHOTOS / "chelsea.jpg") as opened:  # lies on its side, and says so
        exif = Image.Exif()
        exif[0x0112] = 6
        opened.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photos" / "turned.jpg", exif=exif)
    (tmp_path / "brand").mkdir()
    (tmp_path / "brand" / "patch.jpg").write_bytes((PHOTOS / "astronaut.jpg").read_bytes())
    return tmp_path / "photos"


def items(photos: Path) -> dict[str, Item]:
    return {item.item_id: item for item in read_items(str(photos / "manifest.jsonl")) if isinstance(item, Item)}


def expect_saved(photos: Path, item_id: str, prompt: str) -> None:
    until = time.monotonic() + 5
    while items(photos)[item_id].regions[0].prompt != prompt:
        assert time.monotonic() < until, "it was lost"
        time.sleep(0.05)


def close_to(box: tuple[int, ...] | None, expected: tuple[int, ...]) -> bool:
    return box is not None and max(abs(a - b) for a, b in zip(box, expected, strict=True)) <= 1


def test_what_is_drawn_outlives_the_server_and_is_refined(
    browser: Browser, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with command(photos) as (process, address), opened(browser, address) as marking:
        page = marking.page
        expect(page.locator(".cell")).to_have_count(3)
        marking.open(1)
        expect(page.locator("#hint")).to_have_text("Drag a box round what should be refined")
        marking.drag((120, 335), (202, 418))
        marking.drag((202, 418), (207, 423))  # its corner
        marking.drag((160, 380), (170, 390))  # all of it
        marking.press("p", "Control+a")
        page.keyboard.type(PROMPT)
        marking.press("Escape", "r")
        page.locator("#reference-list button").click()
        marking.press("s")
        marking.drag((300, 300), (350, 320), (330, 350))
        marking.press("w")
        marking.drag((310, 360), (340, 360))
        marking.press("n", "m")
        marking.drag((200, 100), (260, 100))
        marking.press("e")
        marking.drag((228, 80), (228, 120))
        marking.press("b")
        marking.drag((20, 20), (90, 90))
        marking.saved("4 regions in 1 image")
        marking.press("u")
        marking.saved("3 regions in 1 image")
        marking.press("y", "Control+z")
        marking.saved("3 regions in 1 image")
        assert marking.complaints == []

        drawn = items(photos)["astronaut"].regions
        process.send_signal(signal.SIGKILL)
        process.wait()
        marking.drag((20, 20), (90, 90))
        expect(page.locator("#trouble")).to_contain_text("the server has stopped")
        expect(page.locator("#saved")).to_have_text("not saved")
    assert items(photos)["astronaut"].regions == drawn
    boxed, scribbled, painted = drawn
    assert close_to(boxed.box, (130, 345, 217, 433))
    assert boxed.prompt == PROMPT
    assert boxed.reference == str(photos.parent / "brand" / "patch.jpg")
    assert (scribbled.prompt, scribbled.reference) == (PROMPT, None)
    assert scribbled.scribble is not None
    assert len(scribbled.scribble.strokes) == 2
    mask = np.asarray(Image.open(str(painted.mask)))
    assert (mask[100, 205], mask[100, 255], mask[100, 228]) == (255, 255, 0)

    with served(photos, photos.parent / "brand") as address, opened(browser, address) as marking:
        page = marking.page
        expect(page.locator(".badge")).to_have_text(["3 regions"])
        marking.open(1)
        expect(page.locator(".region textarea").first).to_have_value(PROMPT)
        assert marking.page.evaluate("canvas.marks.find('.region').length") == 3
        marking.press("c")
        page.wait_for_selector('html[data-shown="2"]', state="attached")
        marking.saved("6 regions in 2 images")
        copied = items(photos)["turned"].regions
        assert close_to(
            copied[0].box, tuple(round(v * f) for v, f in zip((130, 345, 217, 433), SCALE * 2, strict=True))
        )
        assert np.asarray(Image.open(str(copied[2].mask))).shape == (300, 451)
        marking.press("u")
        marking.saved("3 regions in 1 image")
        marking.drag((115, 202), (187, 251))  # upright: the cat as one sees it
        marking.saved("4 regions in 2 images")
        page.locator(".region textarea").fill("The eye, as it was")
        page.goto("about:blank")  # within the moment in which typing is gathered
        expect_saved(photos, "turned", "The eye, as it was")
        assert marking.complaints == []
    assert close_to(items(photos)["turned"].regions[0].box, (115, 202, 187, 251))

    config = RefineBatchConfig(manifest=str(photos / "manifest.jsonl"), out=str(tmp_path / "run"), worker=FAST)
    assert check_manifest(config, open_files=True).problems == []
    monkeypatch.setenv("REFINE_TEST_PUBLISHED", str(tmp_path / "published.log"))
    run_node(config)
    refined = {path.name for path in (tmp_path / "run" / "outputs").rglob("*.jpg")}
    assert refined == {"astronaut.jpg", "turned.jpg"}


def test_axe_finds_no_barrier_and_hostile_names_are_text(browser: Browser, photos: Path) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text()
    (photos / "broken.jpg").write_bytes(b"no picture")
    with served(photos, photos.parent / "brand") as address:
        for number, scheme in enumerate(("light", "dark")):
            with opened(browser, address, color_scheme=scheme) as marking:
                page = marking.page
                page.evaluate(axe)
                assert marking.barriers() == []
                assert page.locator(".cell .name").all_text_contents()[0] == HOSTILE
                marking.press("Enter")
                page.wait_for_selector('html[data-shown="0"]', state="attached")
                expect(page.locator("#title")).to_have_text(HOSTILE)
                marking.press("Enter", "ArrowRight", "Shift+ArrowDown", "Alt+ArrowRight")  # a box without a pointer
                expect(page.locator(".region")).to_have_count(1 + number)
                assert marking.barriers() == []
                marking.press("r" if number else "?")
                assert marking.barriers() == []
                marking.press("Escape", "g")
                marking.open(2)
                expect(page.locator("#unreadable")).to_contain_text("not an image this project reads")
                assert page.evaluate("window.pwned") is None


def test_what_cannot_be_saved_is_said_and_taken_back(browser: Browser, photos: Path) -> None:
    with (
        served(photos, photos.parent / "brand") as address,
        opened(browser, address) as marking,
        opened(browser, address) as other,
    ):
        page = marking.page
        marking.open(1)
        other.open(1)
        marking.press("m")
        marking.drag((100, 100), (150, 100))
        marking.saved("1 region in 1 image")
        marking.press("e")
        page.evaluate("setWidth(100)")
        marking.drag((90, 100), (200, 100))
        expect(page.locator("#hint")).to_contain_text("nothing is marked any more")
        marking.saved("1 region in 1 image")
        other.drag((300, 300), (350, 350))  # it has not seen the painted one
        expect(other.page.locator("#trouble")).to_contain_text("another tab")
        expect(other.page.locator(".region")).to_have_count(1)
        (photos / "manifest.jsonl").write_text("")
        marking.press("b")
        marking.drag((10, 10), (60, 60))
        expect(page.locator("#trouble")).to_contain_text("another program")
        expect(page.locator(".region")).to_have_count(1)
        assert (photos / "manifest.jsonl").read_text() == ""
