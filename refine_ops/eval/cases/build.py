"""From clean, annotated images to a case set: degrade, choose, write, and show what was chosen."""

import io
import json
import logging
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.data.stages.degrade import Degrader
from refine_ops.data.stages.sample import change_over
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.annotations import Annotation, read_annotations, read_object
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, save_cases
from refine_ops.eval.cases.degraded import DegradedVersion, make_versions, open_degraders, pick, select
from refine_ops.eval.cases.sheets import case_sheet, contact_sheet, write_card
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.image.read import decode
from refine_ops.records import Box, U8Image

logger = logging.getLogger(__name__)
_LIMITS = ImageLimits()
_JPEG_QUALITY = 92
_MCU_PX = 16


def build_cases(config: BuildCasesConfig) -> CaseSet:
    """Make the case set of `config.annotations` at `config.out`; equal settings give equal bytes.

    A case that cannot be degraded within the band is left out and recorded in `dropped.json` with the reason.

    Raises:
        JobError: malformed annotations or overrides, or no case is left.
    """
    if config.annotations == "mini":
        from refine_ops.eval.cases.mini import write_mini

        folder = storage.join(storage.resolve(config.out), "annotated")
        write_mini(folder)
    else:
        folder = storage.resolve(config.annotations)
    out = storage.resolve(config.out)
    overrides = _read_overrides(config.overrides)
    degraders = open_degraders(config.degraders)
    rows: list[EvalInput] = []
    annotations, dropped = read_annotations(folder)
    for where, fault in dropped.items():
        logger.warning("%s is left out: %s", where, fault)
    for annotation in annotations:
        if config.only and annotation.case_id not in config.only:
            continue
        try:
            rows += _build_case(config, folder, out, annotation, degraders, overrides)
        except ItemError as e:
            dropped[annotation.case_id] = f"{e.reason}: {e}"
            logger.warning("case %s dropped: %s", annotation.case_id, e)
    if not rows:
        raise JobError(f"{folder}: no case could be built; {json.dumps(dropped, indent=1)}")
    storage.write(storage.join(out, "dropped.json"), json.dumps(dropped, indent=1).encode())
    cases = save_cases(out, rows)
    storage.write(storage.join(out, "contact_sheet.png"), contact_sheet(cases))
    storage.write(storage.join(out, "README.md"), write_card(cases, config, dropped).encode())
    return cases


def _build_case(
    config: BuildCasesConfig,
    folder: str,
    out: str,
    row: Annotation,
    degraders: Mapping[str, Degrader],
    overrides: Mapping[str, list[str]],
) -> list[EvalInput]:
    target, shape, data = read_object(folder, row, _LIMITS)
    every: list[DegradedVersion] = []
    kept: list[DegradedVersion] = []
    counts, band = (config.scribbles, config.seeds), (config.min_change, config.max_change)
    for name, degrader in degraders.items():
        found = make_versions(row.case_id, target, shape, degrader, name, counts, config.seed)
        by_hand = overrides.get(f"{row.case_id}/{name}")
        kept += pick(found, by_hand) if by_hand else select(found, config.keep, band)
        every += found
    storage.write(storage.join(out, "candidates", f"{row.case_id}.png"), case_sheet(target, every, kept))
    base: dict[str, Any] = {
        "case_id": row.case_id,
        "setting": row.setting,
        "category": row.category,
        "instruction": row.instruction,
        "text": row.text,
        "object_box": _case_box(row, target),
        "width": target.shape[1],
        "height": target.shape[0],
        **_write_reference(folder, out, row),
        "source": row.source,
        "source_sha256": row.source_sha256 or storage.sha256(data),
        "licence": row.licence,
    }
    return [EvalInput(**base, **_write_input(out, row, target, version)) for version in kept]


def _write_reference(folder: str, out: str, row: Annotation) -> dict[str, str]:
    """Copy the reference, if there is one, into the set."""
    if row.reference is None:
        return {"reference": "", "reference_sha256": ""}
    content = storage.read(storage.join(folder, row.reference), _LIMITS.max_bytes)
    path = f"images/{row.case_id}/reference{PurePosixPath(row.reference).suffix}"
    storage.write(storage.join(out, path), content)
    return {"reference": path, "reference_sha256": storage.sha256(content)}


def _write_input(out: str, row: Annotation, clean: U8Image, version: DegradedVersion) -> dict[str, Any]:
    """Write input, target and mask; a JPEG input's target keeps the coded background, so that I = I* outside."""
    input_id = f"{row.case_id}.{version.degrader}.{version.name}"
    if row.format == "jpeg":
        data = _jpeg(version.image)
        decoded = decode(data, name=input_id, limits=_LIMITS).rgb
        touched = (version.image != clean).any(2, keepdims=True)
        target, target_name = np.where(touched, clean, decoded), f"{input_id}.target.png"
        change = change_over(version.mask, np.ascontiguousarray(decoded), target)
    else:
        data, target, change = encode_png(version.image), clean, version.change
        target_name = "target.png"
    suffix = "jpg" if row.format == "jpeg" else "png"
    parts = {
        "input": (f"images/{row.case_id}/{input_id}.{suffix}", data),
        "target": (f"images/{row.case_id}/{target_name}", encode_png(target)),
        "mask": (f"images/{row.case_id}/{input_id}.mask.png", encode_png(version.mask)),
    }
    written: dict[str, Any] = {}
    for name, (path, content) in parts.items():
        storage.write(storage.join(out, path), content)
        written |= {name: path, f"{name}_sha256": storage.sha256(content)}
    return written | {
        "input_id": input_id,
        "degrader": version.degrader,
        "candidate": version.name,
        "change": round(change, 4),
    }


def _case_box(row: Annotation, target: U8Image) -> Box:
    """The object box; for JPEG inputs grown past the next MCU border, the least a JPEG's region can be."""
    if row.format != "jpeg":
        return row.object_box
    x0, y0, x1, y1 = row.object_box
    height, width = target.shape[:2]
    low = [(v - _MCU_PX) // _MCU_PX * _MCU_PX for v in (x0, y0)]
    high = [-(-(v + _MCU_PX) // _MCU_PX) * _MCU_PX for v in (x1, y1)]
    return max(0, low[0]), max(0, low[1]), min(width, high[0]), min(height, high[1])


def _jpeg(image: U8Image) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:0")
    return out.getvalue()


def _read_overrides(uri: str | None) -> dict[str, list[str]]:
    if uri is None:
        return {}
    try:
        read = json.loads(storage.read(storage.resolve(uri)))
    except (ItemError, ValueError) as e:
        raise JobError(f"{uri}: expected JSON of names by case/degrader: {e}") from e
    if not isinstance(read, dict) or not all(isinstance(v, list) and v for v in read.values()):
        raise JobError(f'{uri}: expected {{"case/degrader": ["s0k1", ...]}}')
    return read
