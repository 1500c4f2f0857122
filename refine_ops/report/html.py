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
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.report.items import item_of, read_evidence, read_items
from refine_ops.report.measures import FINDINGS, METRICS
from refine_ops.report.visible import visible

SINGLE_FILE_ITEMS = 500
CHUNK_ITEMS = 10_000
_MAX_SLICE_VALUES = 50
_TABLE_COLUMNS = ("seam_de", "raw_de00", "raw_shift_px", "change_levels", "region_ssim", "changed_outside_px")
_SCRIPTS = ("data.js", "review.js", "table.js", "viewer.js", "main.js")
_WORDS = {"clean": "Clean", "attention": "Worth a look", "violated": "Promise broken"}
_NO_PICTURES = "No pictures were kept of this item: it is clean, and the report keeps a sample of clean items only."
_BIT = {code: 1 << bit for bit, code in enumerate(FINDINGS)}

Layout = Literal["auto", "single", "folder"]


def render_html(folder: str, layout: Layout = "auto") -> str:
    """Write `report.html` (and `data/`) into the report folder; returns the page's URI.

    Raises:
        ItemError: `report.json`, `items.parquet` or a part of `evidence/` is not there.
        JobError: the page cannot be written.
    """
    report = json.loads(storage.read(storage.join(folder, "report.json")))
    items = read_items(folder)
    single = layout == "single" or (layout == "auto" and len(items) <= SINGLE_FILE_ITEMS)
    slices = _slice_values(items)
    runs = list(dict.fromkeys(items["run"].to_pylist()))
    inline: list[tuple[str, str]] = []
    for name, payload in _payloads(folder, items, runs, slices):
        if single:
            inline.append((name, _json(payload)))
        else:
            script = f'refineReport("{name}",{_json(payload)});'
            storage.write(storage.join(folder, "data", f"{name}.js"), script.encode())
    page = _page(report, _facts(report, items, runs, slices), _worst(folder, report, items), inline, single)
    uri = storage.join(folder, "report.html")
    storage.write(uri, page.encode())
    return uri


def _page(
    report: dict[str, Any],
    facts: dict[str, Any],
    worst: list[dict[str, Any]],
    inline: list[tuple[str, str]],
    single: bool,
) -> str:
    css, script = _template("report.css"), _script()
    sources = [_hash(script)] if single else [_hash(script), "'self'", "file:"]
    policy = (
        f"default-src 'none'; script-src {' '.join(sources)}; style-src {_hash(css)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .from_string(_template("report.html"))
        .render(
            report=report,
            verdict_word=_WORDS[report["verdict"]["state"]],
            worst=worst,
            facts=_json(facts),
            inline=inline,
            css=css,
            js=script,
            csp=policy,
        )
    )


def _payloads(
    folder: str, items: pa.Table, runs: list[str], slices: dict[str, list[str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, JSON) of every index chunk, and of the details and thumbnails of every page."""
    for chunk, start in enumerate(range(0, len(items), CHUNK_ITEMS)):
        yield f"index-{chunk:05d}", _index(items.slice(start, CHUNK_ITEMS), runs, slices)
    numbered = items.append_column("row", pa.array(range(len(items)), pa.int32()))
    numbered = numbered.take(pc.sort_indices(numbered["page"]))
    pages = numbered["page"].to_pylist()
    start = 0
    while start < len(pages):
        page = pages[start]
        stop = start + next((i for i, p in enumerate(pages[start:]) if p != page), len(pages) - start)
        rows = numbered.slice(start, stop - start).to_pylist()
        evidence = read_evidence(folder, page)
        shown = [(row, evidence.get((row["run"], row["item_id"]), {"thumb": b"", "windows": []})) for row in rows]
        yield f"details-{page:05d}", {row["row"]: _details(row, seen["windows"]) for row, seen in shown}
        yield f"thumbs-{page:05d}", {row["row"]: _image(seen["thumb"], "webp") for row, seen in shown}
        start = stop


def _index(items: pa.Table, runs: list[str], slices: dict[str, list[str]]) -> dict[str, Any]:
    number_of_run = {run: i for i, run in enumerate(runs)}
    findings = items["findings"].to_pylist()
    slice_rows = [dict(row) for row in items["slices"].to_pylist()]
    prompts = ([r["prompt"][:80] for r in row] for row in items["regions"].to_pylist())
    texts = zip(items["image"].to_pylist(), items["reason"].to_pylist(), prompts, strict=True)
    return {
        "id": items["item_id"].to_pylist(),
        "run": [number_of_run[run] for run in items["run"].to_pylist()],
        "text": ["\n".join([image.rsplit("/", 1)[-1], reason, *prompt]) for image, reason, prompt in texts],
        "findings": [sum({_BIT[f["code"]] for f in row}) for row in findings],
        "page": items["page"].to_pylist(),
        "metrics": {m.name: [_rounded(v, m.digits) for v in items[m.name].to_pylist()] for m in METRICS},
        "slices": {
            name: [values.index(v) if (v := row.get(name, "")) in values else -1 for row in slice_rows]
            for name, values in slices.items()
        },
    }


def _details(row: dict[str, Any], windows: list[dict[str, Any]]) -> dict[str, Any]:
    item = item_of(row)
    size = f"{item.format}, {item.width} x {item.height}, " if item.format else ""
    return {
        "fingerprint": item.fingerprint,
        "image": item.image,
        "output": item.output,
        "file": f"{size}attempts {item.attempts}",
        "message": item.message,
        "findings": [f.text for f in item.findings],
        "regions": [{"region_id": r.region_id, "prompt": r.prompt, "metrics": r.metrics} for r in item.regions],
        "windows": [_shown_window(w) for w in windows],
        "no_pictures": _NO_PICTURES
        if not item.findings
        else "There is nothing to show: the files could not be compared.",
    }


def _shown_window(window: dict[str, Any]) -> dict[str, Any]:
    kinds = {"before": "webp", "after": "webp", "difference": "png", "raw": "webp"}
    return window | {name: _image(window[name], kind) for name, kind in kinds.items()}


def _facts(report: dict[str, Any], items: pa.Table, runs: list[str], slices: dict[str, list[str]]) -> dict[str, Any]:
    """What the script needs before any item: columns, filters, how many chunks."""
    key = hashlib.sha256("\n".join([report["created_at"], *runs]).encode()).hexdigest()[:16]
    measured = [m for m in report["metrics"] if m["measured"]]
    names = {m["name"] for m in measured}
    return {
        "key": key,
        "items": len(items),
        "flagged": report["flagged"],
        "chunks": -(-len(items) // CHUNK_ITEMS),
        "runs": runs,
        "slices": slices,
        "columns": [name for name in _TABLE_COLUMNS if name in names],
        "findings": [{"code": c, "label": k.label, "count": report["counts"].get(c, 0)} for c, k in FINDINGS.items()],
        "metrics": [m | {"limit": m["limit_value"], "limit_text": m["limit"] or None} for m in report["metrics"]],
    }


def _worst(folder: str, report: dict[str, Any], items: pa.Table) -> list[dict[str, Any]]:
    head = items.slice(0, len(report["worst"])).select(["run", "item_id", "page"]).to_pylist()
    runs = list(dict.fromkeys(items["run"].to_pylist()))
    evidence = cache(lambda page: read_evidence(folder, page))
    worst = []
    for entry, row in zip(report["worst"], head, strict=True):
        thumb = evidence(row["page"]).get((row["run"], row["item_id"]), {}).get("thumb", b"")
        run = runs.index(row["run"])
        worst.append({**entry, "thumb": _image(thumb, "webp"), "run_number": run})
    return worst


def _slice_values(items: pa.Table) -> dict[str, list[str]]:
    """The values to filter by, most frequent first; slices with one value say nothing and are left out."""
    counts: dict[str, dict[str, int]] = {}
    for row in items["slices"].to_pylist():
        for name, value in row:
            by_value = counts.setdefault(name, {})
            by_value[value] = by_value.get(value, 0) + 1
    found = {name: sorted(v, key=lambda k: (-v[k], k))[:_MAX_SLICE_VALUES] for name, v in counts.items() if len(v) > 1}
    return dict(sorted(found.items()))


def _json(value: Any) -> str:
    """JSON that may stand in a script block: no `<`, `>` or `&`, whatever the strings hold."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _image(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if data else ""


def _rounded(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    rounded = round(value, digits + 1)
    return int(rounded) if rounded == int(rounded) else rounded


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _template(name: str) -> str:
    return resources.files("refine_ops.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    return '"use strict";(() => {\n' + "\n".join(map(_template, _SCRIPTS)) + "})();"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "figure": _figure}
    environment.globals["sparkline"] = _sparkline
    return environment


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
