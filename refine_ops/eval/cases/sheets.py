"""What a case set looks like: contact sheets to choose from, and the card."""

from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from refine_ops.config import ImageLimits
from refine_ops.eval.cases.case_set import CaseSet, load_input
from refine_ops.eval.cases.degraded import DegradedVersion
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import U8Image

_CELL_PX = 112
_LABEL_PX = 14


def case_sheet(target: U8Image, every: Sequence[DegradedVersion], kept: Sequence[DegradedVersion]) -> bytes:
    """PNG: one row per degrader, all its versions, the kept ones framed; the clean image stands first."""
    chosen = {id(c) for c in kept}
    rows = []
    for degrader in dict.fromkeys(c.degrader for c in every):
        cells = [_cell(target, "clean")]
        for version in (c for c in every if c.degrader == degrader):
            label = f"{degrader[:10]} {version.name} {version.change:.0f}"
            cells.append(_cell(version.image, label, framed=id(version) in chosen))
        rows.append(np.concatenate(cells, axis=1))
    return encode_png(_stack(rows))


def contact_sheet(cases: CaseSet) -> bytes:
    """PNG: one row per case: reference (or nothing), target, and its inputs."""
    rows = []
    for case_id, items in cases.by_case().items():
        cells: list[U8Image] = []
        for item in items:
            loaded = load_input(cases, item, ImageLimits())
            if not cells:
                shown = np.full_like(loaded.target, 24) if loaded.reference is None else loaded.reference
                cells = [_cell(shown, case_id[:16]), _cell(loaded.target, f"{item.setting[:4]} {item.category}")]
            cells.append(_cell(loaded.image, f"{item.degrader[:10]} {item.change:.0f}"))
        rows.append(np.concatenate(cells, axis=1))
    return encode_png(_stack(rows))


def write_card(cases: CaseSet, config: BuildCasesConfig, dropped: Mapping[str, str]) -> str:
    """The set's README: counts, how inputs were made and chosen, sources and licences."""
    firsts = [items[0] for items in cases.by_case().values()]
    counts = Counter((i.setting, i.category) for i in firsts)
    sources = sorted({(i.source, i.licence) for i in firsts})
    degraders = ", ".join(sorted({i.degrader for i in cases.inputs}))
    name = "RefineEval-mini" if config.annotations == "mini" else "A RefineEval case set"
    lines = [
        f"# {name}",
        "",
        f"{len(firsts)} cases, {len(cases.inputs)} degraded inputs. Digest `{cases.digest[:16]}`.",
        "",
        "| setting | category | cases |",
        "| --- | --- | ---: |",
        *(f"| {setting} | {category} | {n} |" for (setting, category), n in sorted(counts.items())),
        "",
        f"Per case and degrader ({degraders}): {config.scribbles} scribbles x {config.seeds} seeds; {config.keep} kept "
        f"by rule: mean change over the mask between {config.min_change} and {config.max_change} of 255, at even ranks "
        "from mild to harsh, different scribbles. All versions are in `candidates/`; an overrides file replaces the "
        "rule's choice by hand.",
        "",
        "Inputs equal their targets outside the degradation's blend support, bit for bit. Files carry SHA-256 hashes "
        "in `cases.parquet`. JPEG inputs have object boxes on the MCU grid, since a JPEG cannot change by less.",
        "",
        "## Sources",
        "",
        *(f"- {source} -- {licence}" for source, licence in sources),
    ]
    if dropped:
        lines += ["", "## Dropped", "", *(f"- `{case_id}`: {reason}" for case_id, reason in dropped.items())]
    return "\n".join(lines) + "\n"


def _cell(image: U8Image, label: str, *, framed: bool = False) -> U8Image:
    """The image fitted into a square with a label below."""
    scale = _CELL_PX / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    cell = np.full((_CELL_PX + _LABEL_PX, _CELL_PX, 3), 24, np.uint8)
    cell[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cv2.putText(cell, label, (2, _CELL_PX + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (230, 230, 230), 1, cv2.LINE_AA)
    if framed:
        cv2.rectangle(cell, (0, 0), (_CELL_PX - 1, _CELL_PX - 1), (60, 220, 90), 3)
    return cell


def _stack(rows: Sequence[U8Image]) -> U8Image:
    width = max(r.shape[1] for r in rows)
    padded = [np.pad(r, ((0, 0), (0, width - r.shape[1]), (0, 0)), constant_values=24) for r in rows]
    return np.concatenate(padded)
