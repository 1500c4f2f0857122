"""The report in a page of Markdown, for places that show artifacts; every string in it is escaped."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refine_ops import storage
from refine_ops.report.items import read_items, read_pictures
from refine_ops.report.page.escape import markdown

_PICTURES = 5


def markdown_summary(folder: str, page: str, report: dict[str, Any]) -> str:
    """What became of the run, the worst items with before and after pictures, why items are held or failed, how regions
    were made, alarms and numbers, linking to the page.

    Args:
        folder, page: The report's folder and its `report.html`, by URI.
        report: What `report.json` says.
    """
    link = page if storage.is_s3(page) else Path(page).as_uri()
    lines = [
        f"# {markdown(report['title'])}",
        "\n".join(f"**{markdown(sentence)}**  " for sentence in report["verdict"]["sentences"]),
        *([" ".join(map(markdown, report["promise"]))] if report.get("promise") else []),
        f"[Open the report](<{link}>)",
    ]
    if report["worst"]:
        lines.append("## Look at these first\n" + "\n".join(_worst_rows(folder, report["worst"])))
    for status, title in (("held", "Why they are held"), ("dead", "Why they failed")):
        if report["reasons"][status]:
            lines.append(f"## {title}\n" + "\n".join(_reason(why) for why in report["reasons"][status]))
    if report["made"]:
        lines.append("## How the regions were made\n" + "\n".join(f"- {line}" for line in report["made"]))
    if report["alarms"]:
        alarms = "\n".join(f"- {a['kind']}: {markdown(a['text'])}" for a in report["alarms"][:10])
        lines.append("## Other than on the nights before\n" + alarms)
    lines.append(
        "## Numbers\n| number | value | kind | limit |\n| --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {c['label']} | {c['text']} {c['unit']} | {c['kind']} | {c['limit'] or '–'} |"
            for c in report["headline"]
        )
    )
    return "\n\n".join(lines) + "\n"


def _reason(why: dict[str, Any]) -> str:
    return f"- {why['count']:,}: {markdown(why['message'])} ({markdown(why['reason'])})"


def _worst_rows(folder: str, worst: Sequence[dict[str, Any]]) -> list[str]:
    items = read_items(folder).slice(0, len(worst)).select(["run", "item_id", "page"]).to_pylist()
    rows = ["| item | why | before | after |", "| --- | --- | --- | --- |"]
    for i, (entry, item) in enumerate(zip(worst, items, strict=True)):
        windows = []
        if i < _PICTURES:
            found = read_pictures(folder, item["page"]).get((item["run"], item["item_id"]), {})
            windows = found.get("windows", [])[:1]
        pictures = [_picture(w[side], side) for w in windows for side in ("before", "after")] or ["", ""]
        rows.append(f"| {markdown(entry['id'])} | {markdown(entry['plain'])} | {pictures[0]} | {pictures[1]} |")
    return rows


def _picture(webp: bytes, what: str) -> str:
    return f"![{what}](data:image/webp;base64,{base64.b64encode(webp).decode()})"
