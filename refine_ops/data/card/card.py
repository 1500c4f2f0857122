"""The dataset card: README.md, statistics.json and contact_sheet.png beside the parts."""

import hashlib
import json
from typing import Any

import pyarrow as pa

from refine_ops import storage
from refine_ops.data.building.parts import read_parts
from refine_ops.data.card.contact_sheet import contact_sheet
from refine_ops.data.card.statistics import summarise
from refine_ops.data.schema import VERSION

_SHEET_ROWS = 16
_LIST_ROWS = 20
_INERT = {ord(mark): f"&#{ord(mark)};" for mark in "&\\`*{}[]<>|#!"}


def write_card(out: str) -> dict[str, Any]:
    """Write the card of a set, complete or not, and return its statistics."""
    statistics = summarise(out)
    storage.write(storage.join(out, "statistics.json"), json.dumps(statistics, indent=2, ensure_ascii=False).encode())
    chosen = _spread(read_parts(out, "samples"))
    if chosen:
        storage.write(storage.join(out, "contact_sheet.png"), contact_sheet(out, chosen))
    build = json.loads(storage.read(storage.join(out, "build.json")))
    storage.write(storage.join(out, "README.md"), _markdown(build, statistics, bool(chosen)).encode())
    return statistics


def _spread(samples: pa.Table) -> list[dict[str, Any]]:
    """A sheet's worth of samples, in an order that only their ids decide."""
    ids = samples["sample_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    rows: list[dict[str, Any]] = samples.take(pa.array(sorted(order[:_SHEET_ROWS]), pa.int64())).to_pylist()
    return rows


def _markdown(build: dict[str, Any], s: dict[str, Any], sheet: bool) -> str:
    controls = s["controls"]
    rate = f"{controls['false_positive_rate']:.1%}" if "false_positive_rate" in controls else "not measured"
    parts = [
        "# Region-refinement training set",
        f"{s['samples']} samples `(I, I_ref, I*, M, y)`, {s['rejects']} rejected. I equals I* bit for bit outside the "
        "blend's support, M lies inside the dilated object, and no source image is in both splits: checked for every "
        f"sample. Schema version {VERSION}, fingerprint `{build['fingerprint'][:16]}`; the configuration is in "
        "`build.json`, rejects and their reasons in `rejects/`.",
        "![Some samples](contact_sheet.png)" if sheet else "",
        _table("Samples", ("setting / split", "samples"), s["by_setting_and_split"]),
        _table("Source files", ("split", "distinct files"), s["source_images_by_split"]),
        _table("Regions", ("kind", "samples"), s["mask_kinds"]),
        _quantile_table(s),
        _table("Families (for exclusion by name)", ("family", "samples"), s["families"]),
        _table("Licences", ("licence", "samples"), s["licences"]),
        _table("Models", ("stage: model", "samples"), s["models"]),
        _table("Rejects", ("stage / reason", "samples"), s["reject_reasons"]),
        f"Validator's false-positive rate on clean controls: {rate} "
        f"({controls['called_defective']} of {controls['shown']}).",
        _throughput_table(s["throughput"]),
        _table("VLM", ("", ""), s["vlm"]),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _table(title: str, head: tuple[str, str], values: dict[str, Any]) -> str:
    if not values:
        return ""
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in list(values.items())[:_LIST_ROWS]]
    more = len(values) - _LIST_ROWS
    lines += [f"| ... {more} more in statistics.json | |"] if more > 0 else []
    return "\n".join([f"## {title}", "", f"| {head[0]} | {head[1]} |", "| --- | --- |", *lines])


def _quantile_table(s: dict[str, Any]) -> str:
    rows = {
        "mean change over M, 1/255": s["change_over_mask"],
        "object box / image area": s["object_box_area_share"],
        "width / height": s["width_over_height"],
    }
    names = list(next(iter(rows.values())))
    if not names:
        return ""
    lines = [f"| {what} | " + " | ".join(f"{values[n]:g}" for n in names) + " |" for what, values in rows.items()]
    head = "| | " + " | ".join(names) + " |"
    return "\n".join(["## Distributions", "", head, "| --- |" + " --- |" * len(names), *lines])


def _throughput_table(stages: dict[str, dict[str, float]]) -> str:
    lines = [f"| {name} | {v['calls']:g} | {v['seconds']:g} | {v['per_s']:g} |" for name, v in stages.items()]
    head = ["## Throughput", "", "| stage | calls | seconds of one worker | per second |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *lines])


def _cell(value: Any) -> str:
    """Text from a manifest or a model, made inert in Markdown: no cell breaks, no markup, no HTML."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " ".join(text.translate(_INERT).split())
