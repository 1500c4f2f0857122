"""`report.html`, rendered from `report.json`, `items.parquet` and `evidence/` alone: nothing is measured here.

One self-contained file, or, for many items, the page beside `data/`: the same JSON as scripts, because a page opened
from a disk may not fetch. Every string reaches the page as JSON in an inert block (shown with `textContent`) or through
an escaping template; the Content-Security-Policy allows our own script and style by hash, images as data, and nothing
else.
"""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, Literal

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.report.figures import FINDINGS
from refine_ops.report.items import read_close_ups, read_items, read_pictures
from refine_ops.report.page.escape import visible
from refine_ops.report.page.payload import as_json, data_uri, facts, payloads, slice_values

SINGLE_FILE_ITEMS = 500
_SCRIPTS = ("dom.js", "data.js", "review.js", "table.js", "viewer.js", "main.js")
_WORDS = {"clean": "All is well", "attention": "Worth a look", "violated": "Promise broken"}
_GROUPS = {
    "held": ("Held for you", "Nothing good enough came out, so nothing of these was published. You decide."),
    "look": ("Look at these first", "Something about these stands out."),
    "most": ("What changed most", ""),
    "typical": ("What is typical", ""),
}
"""Title and explanation of each group of pictures, in their order."""

PageLayout = Literal["auto", "single", "folder"]


def render_html(folder: str, layout: PageLayout = "auto") -> str:
    """Write `report.html` (and `data/`) into the report folder; returns the page's URI.

    Raises:
        ItemError: `report.json`, `items.parquet` or a part of `evidence/` is not there.
        JobError: the page cannot be written.
    """
    report = json.loads(storage.read(storage.join(folder, "report.json")))
    items = read_items(folder)
    single = layout == "single" or (layout == "auto" and len(items) <= SINGLE_FILE_ITEMS)
    slices = slice_values(items)
    runs = list(dict.fromkeys(items["run"].to_pylist()))
    inline: list[tuple[str, str]] = []
    for name, payload in payloads(folder, items, runs, slices):
        if single:
            inline.append((name, as_json(payload)))
        else:
            script = f'refineReport("{name}",{as_json(payload)});'
            storage.write(storage.join(folder, "data", f"{name}.js"), script.encode())
    worst, groups = _worst(folder, report, items), _groups(folder, report, items, runs)
    page = _page(report, facts(report, items, runs, slices), worst, groups, inline, single)
    uri = storage.join(folder, "report.html")
    storage.write(uri, page.encode())
    return uri


def _page(
    report: dict[str, Any],
    facts: dict[str, Any],
    worst: list[dict[str, Any]],
    groups: list[dict[str, Any]],
    inline: list[tuple[str, str]],
    single: bool,
) -> str:
    css, script = _template("look.css") + _template("report.css"), _script()
    sources = [_hash(script)] if single else [_hash(script), "'self'", "file:"]
    policy = (
        f"default-src 'none'; script-src {' '.join(sources)}; style-src {_hash(css)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    published = report["outcome"]["published"]
    return (
        _environment()
        .from_string(_template("report.html"))
        .render(
            report=report,
            verdict_word=_WORDS[report["verdict"]["state"]],
            published=report["outcome"]["done"] if published is None else published,
            published_word="refined" if published is None else "published",
            worst=worst,
            groups=groups,
            facts=as_json(facts),
            inline=inline,
            css=css,
            js=script,
            csp=policy,
        )
    )


def _worst(folder: str, report: dict[str, Any], items: pa.Table) -> list[dict[str, Any]]:
    head = items.slice(0, len(report["worst"])).select(["run", "item_id", "page"]).to_pylist()
    runs = list(dict.fromkeys(items["run"].to_pylist()))
    pictures = cache(lambda page: read_pictures(folder, page))
    worst = []
    for entry, row in zip(report["worst"], head, strict=True):
        thumb = pictures(row["page"]).get((row["run"], row["item_id"]), {}).get("thumb", b"")
        run = runs.index(row["run"])
        worst.append({**entry, "thumb": data_uri(thumb, "webp"), "run_number": run})
    return worst


def _groups(folder: str, report: dict[str, Any], items: pa.Table, runs: list[str]) -> list[dict[str, Any]]:
    """The first screen's pictures, by group; a report of before there were any shows none."""
    close_ups = read_close_ups(folder)
    groups = []
    for name, (title, explained) in _GROUPS.items():
        cards = []
        for card in report.get("shown", ()):
            if card["group"] != name:
                continue
            pictures = _outside(folder, card, items) if FINDINGS["strict.pixels"].plain in card["flags"] else []
            seen = close_ups.get((card["run"], card["id"]))
            if not pictures and seen is not None:
                named = [("before", seen.before), (seen.said, seen.reference), (seen.after_said, seen.after)]
                pictures = [(caption, data_uri(data, "webp"), "") for caption, data in named if data]
            cards.append(card | {"run_number": runs.index(card["run"]), "pictures": pictures})
        if cards:
            groups.append({"name": name, "title": title, "explained": explained, "cards": cards})
    return groups


def _outside(folder: str, card: dict[str, Any], items: pa.Table) -> list[tuple[str, str, str]]:
    """(caption, data URI, kind) of the place where something changed that must not: that is where to look."""
    mine = pc.and_(pc.equal(items["run"], card["run"]), pc.equal(items["item_id"], card["id"]))
    [page] = items.filter(mine)["page"].to_pylist()
    windows = read_pictures(folder, page).get((card["run"], card["id"]), {}).get("windows", [])
    if not windows:
        return []
    place = windows[0]
    before, difference = data_uri(place["before"], "webp"), data_uri(place["difference"], "png")
    return [(f"before, {place['title']}", before, ""), ("what differs, made bright", difference, "heat")]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _template(name: str) -> str:
    return resources.files("refine_ops.report.page").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    return '"use strict";(() => {\n' + "\n".join(map(_template, _SCRIPTS)) + "})();"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "figure": _figure, "day": _day}
    environment.globals["sparkline"] = _sparkline
    return environment


def _day(stamp: str) -> str:
    """An ISO time as people write it."""
    try:
        return datetime.fromisoformat(stamp).strftime("%-d %B %Y, %H:%M %Z").strip()
    except ValueError:
        return stamp


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _sparkline(values: Sequence[float], label: str) -> Any:
    """The history as an inline SVG, oldest left; the last run is the dot."""
    from markupsafe import Markup

    low, high = min(values), max(values)
    room = (high - low) or 1.0
    points = [(100 * i / (len(values) - 1), 26 - 24 * (v - low) / room) for i, v in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    title = html.escape(f"{label}: last {len(values)} runs, from {low:.3g} to {high:.3g}, now {values[-1]:.3g}")
    x, y = points[-1]
    return Markup(
        f'<svg class="spark" viewBox="0 0 100 28" preserveAspectRatio="none" role="img" aria-label="{title}">'
        f'<title>{title}</title><polyline points="{line}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="1.6"/></svg>'
    )
