"""The report in twenty lines of Markdown, for places that show artifacts; every string in it is escaped."""

import base64
from pathlib import Path

from refine_ops import storage
from refine_ops.report.build import Built
from refine_ops.report.items import read_evidence, read_items
from refine_ops.report.page.escape import markdown

_PICTURES = 5


def markdown_summary(built: Built) -> str:
    """Verdict, numbers, alarms and the worst items with before and after pictures, linking to the page."""
    report = built.summary
    link = built.page if storage.is_s3(built.page) else Path(built.page).as_uri()
    lines = [
        f"# Drift report: {markdown(report['title'])}",
        f"**{markdown(report['verdict']['sentence'])}**",
        f"[Open the report](<{link}>)",
        "| number | value | kind | limit |\n| --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {c['label']} | {c['text']} {c['unit']} | {c['kind']} | {c['limit'] or '–'} |"
            for c in report["headline"]
        ),
    ]
    if report["alarms"]:
        lines.append("## Alarms\n" + "\n".join(f"- {a['kind']}: {markdown(a['text'])}" for a in report["alarms"][:10]))
    if report["worst"]:
        lines.append("## Look at these first\n" + "\n".join(_worst_rows(built)))
    return "\n\n".join(lines) + "\n"


def _worst_rows(built: Built) -> list[str]:
    worst = built.summary["worst"]
    items = read_items(built.folder).slice(0, len(worst)).select(["run", "item_id", "page"]).to_pylist()
    rows = ["| item | why | before | after |", "| --- | --- | --- | --- |"]
    for i, (entry, item) in enumerate(zip(worst, items, strict=True)):
        windows = []
        if i < _PICTURES:
            found = read_evidence(built.folder, item["page"]).get((item["run"], item["item_id"]), {})
            windows = found.get("windows", [])[:1]
        pictures = [_picture(w[side], side) for w in windows for side in ("before", "after")] or ["", ""]
        rows.append(f"| {markdown(entry['id'])} | {markdown(entry['finding'])} | {pictures[0]} | {pictures[1]} |")
    return rows


def _picture(webp: bytes, what: str) -> str:
    return f"![{what}](data:image/webp;base64,{base64.b64encode(webp).decode()})"
