"""The page of `refine-ops mark` in a real browser, and a person's hand on it."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from refine_ops.mark.folder import list_images
from refine_ops.mark.server import MarkServer
from refine_ops.mark.session import MarkSession


@contextmanager
def command(photos: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`refine-ops mark`, running, and the address that it printed."""
    arguments = ["mark", str(photos), "--references", str(photos.parent / "brand"), "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", *arguments], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        assert process.stdout is not None
        address = next(line.strip() for line in process.stdout if "http://" in line)
        yield process, address
    finally:
        process.kill()
        process.wait()


@dataclass
class Marking:
    """The page, opened. Nothing may leave the server, be logged or be thrown."""

    page: Page
    complaints: list[str]

    def open(self, number: int) -> None:
        self.page.locator(f'.cell[data-key^="{number}/"]').click()
        self.page.wait_for_selector(f'html[data-shown="{number}"]', state="attached")

    def drag(self, *points: tuple[float, float]) -> None:
        """With the pointer, over pixels of the image."""
        frame = self.page.locator("#stage").bounding_box()
        assert frame is not None
        x, y, scale = self.page.evaluate("[canvas.stage.x(), canvas.stage.y(), canvas.stage.scaleX()]")
        on_screen = [(frame["x"] + x + px * scale, frame["y"] + y + py * scale) for px, py in points]
        self.page.mouse.move(*on_screen[0])
        self.page.mouse.down()
        for point in on_screen[1:]:
            self.page.mouse.move(*point, steps=5)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def saved(self, said: str) -> None:
        expect(self.page.locator("#saved")).to_have_text(f"saved: {said} · manifest.jsonl")

    def barriers(self) -> list[object]:
        found = self.page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")["violations"]
        return [(v["id"], [n["html"][:100] for n in v["nodes"]]) for v in found]


@contextmanager
def opened(browser: Browser, address: str, **context: object) -> Iterator[Marking]:
    seen = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | context))
    page = seen.new_page()
    marking = Marking(page, [])
    page.on("request", lambda r: None if r.url.startswith(address) else marking.complaints.append(r.url))
    page.on("console", lambda m: marking.complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: marking.complaints.append(str(e)))
    page.goto(address)
    page.wait_for_selector("html[data-ready]", state="attached")
    yield marking
    seen.close()


@contextmanager
def served(photos: Path, references: Path) -> Iterator[str]:
    """The address of the page, served by this process."""
    listed, known = list_images(str(photos)), list_images(str(references)).images
    session = MarkSession.open(str(photos / "manifest.jsonl"), listed, known)
    with MarkServer(session) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server.site.url
        server.shutdown()
        thread.join()
