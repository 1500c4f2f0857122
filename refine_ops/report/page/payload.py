"""The data behind `report.html`, as JSON: an index of all items in chunks, details and thumbnails in pages."""

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from refine_ops.report.figures import FIGURES, FINDINGS
from refine_ops.report.items import item_of, read_pictures
from refine_ops.report.words import agreement_numbers, origin_in_words

CHUNK_ITEMS = 10_000
_MAX_SLICE_VALUES = 50
_TABLE_COLUMNS = ("seam_de", "raw_de00", "raw_shift_px", "change_levels", "region_ssim", "changed_outside_px")
_NO_PICTURES = "No pictures were kept of this item: it is clean, and the report keeps a sample of clean items only."
_BIT = {code: 1 << bit for bit, code in enumerate(FINDINGS)}


def payloads(
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
        pictures = read_pictures(folder, page)
        shown = [(row, pictures.get((row["run"], row["item_id"]), {"thumb": b"", "windows": []})) for row in rows]
        yield f"details-{page:05d}", {row["row"]: _details(row, seen["windows"]) for row, seen in shown}
        yield f"thumbs-{page:05d}", {row["row"]: data_uri(seen["thumb"], "webp") for row, seen in shown}
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
        "metrics": {m.name: [_rounded(v, m.digits) for v in items[m.name].to_pylist()] for m in FIGURES},
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
        "regions": [
            {
                "region_id": r.region_id,
                "prompt": r.prompt,
                "metrics": r.metrics,
                "origin": origin_in_words(r),
                "agreement": agreement_numbers(r),
            }
            for r in item.regions
        ],
        "windows": [_shown_window(w) for w in windows],
        "no_pictures": _NO_PICTURES
        if not item.findings
        else "There is nothing to show: the files could not be compared.",
    }


def _shown_window(window: dict[str, Any]) -> dict[str, Any]:
    kinds = {"before": "webp", "after": "webp", "difference": "png", "raw": "webp"}
    return window | {name: data_uri(window[name], kind) for name, kind in kinds.items()}


def facts(report: dict[str, Any], items: pa.Table, runs: list[str], slices: dict[str, list[str]]) -> dict[str, Any]:
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


def slice_values(items: pa.Table) -> dict[str, list[str]]:
    """The values to filter by, most frequent first; slices with one value say nothing and are left out."""
    counts: dict[str, dict[str, int]] = {}
    for row in items["slices"].to_pylist():
        for name, value in row:
            by_value = counts.setdefault(name, {})
            by_value[value] = by_value.get(value, 0) + 1
    found = {name: sorted(v, key=lambda k: (-v[k], k))[:_MAX_SLICE_VALUES] for name, v in counts.items() if len(v) > 1}
    return dict(sorted(found.items()))


def as_json(value: Any) -> str:
    """JSON that may stand in a script block: no `<`, `>` or `&`, whatever the strings hold."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(data: bytes, kind: str) -> str:
    """An encoded picture as a `data:` URI; empty for none."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if data else ""


def _rounded(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    rounded = round(value, digits + 1)
    return int(rounded) if rounded == int(rounded) else rounded
