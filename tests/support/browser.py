"""A real headless Chromium, and a page that records everything it should not do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.programs import program


@contextmanager
def chromium() -> Iterator[Browser]:
    executable, options = program("chromium"), ["--no-sandbox", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=options)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One opened report. `requests` are those that are neither the report's own files nor data in the page."""

    page: Page
    report: Path
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, fragment: str = "") -> None:
        self.page.goto(self.report.as_uri() + (f"#{fragment}" if fragment else ""))
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def open_item(self, item_id: str) -> None:
        self.page.evaluate("(id) => { location.hash = new URLSearchParams({ item: id }).toString(); }", item_id)
        self.page.wait_for_selector("#item[open]")
        self.page.wait_for_function("(id) => document.getElementById('item-title').textContent === id", arg=item_id)

    def assert_quiet(self) -> None:
        """No request left the report, nothing was logged, nothing was thrown, no policy was violated."""
        assert self.requests == []
        assert self.complaints == []


@contextmanager
def visit(browser: Browser, report: Path, **context: Any) -> Iterator[Visit]:
    opened = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | context))
    page = opened.new_page()
    visited = Visit(page, report)
    own = re.compile(
        f"^(data:|blob:|file://{re.escape(quote(str(report.parent)))}/(report\\.html|data/[a-z]+-\\d+\\.js)(#|$))"
    )
    page.on("request", lambda r: None if own.match(r.url) else visited.requests.append(r.url))
    page.on("console", lambda m: visited.complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda e: visited.complaints.append(str(e)))
    yield visited
    opened.close()
