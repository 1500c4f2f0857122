"""One manifest row: validated into an `Item`, or refused with a reason."""

import json
import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from refine_ops import storage
from refine_ops.cells import forging_character, numbers_of, pixels_of, text_of, whole_of
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError
from refine_ops.records import Box, Item, PastePolicy, Region, Scribble

MAX_PROMPT_CHARS: Final = 4096
MAX_ID_CHARS: Final = 512
MAX_REGIONS: Final = 256
MAX_REFERENCES: Final = 16
MAX_POINTS: Final = 100_000
MAX_MESSAGE_CHARS: Final = 1000
MAX_STROKES_PX: Final = 10_000_000
"""Length of all strokes of a scribble: drawing takes time in proportion."""

ITEM_FIELDS: Final = ("item_id", "image", "output", "category")
REGION_FIELDS: Final = (
    "region_id",
    "box",
    "mask",
    "scribble",
    "prompt",
    "reference",
    "seed",
    "paste",
    "mask_level",
    "mask_class",
    "mask_invert",
    "references",
)
_MASK_FIELDS: Final = ("mask_level", "mask_class", "mask_invert")
_BOOLEANS: Final = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

FATAL: Final = frozenset({"uri.scheme", "output.escapes", "item_id.duplicate", "output.duplicate", "columns.unknown"})
"""Reasons that stop the job before anything runs: the manifest as a whole is not what its author meant."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row cannot be refined; `fatal` ones refuse the whole manifest."""

    row: int
    item_id: str
    reason: str
    message: str

    @property
    def fatal(self) -> bool:
        return self.reason in FATAL


def parse_row(row: int, raw: Mapping[str, Any], base: str, access: AccessSettings) -> Item | RowProblem:
    """Turn a nested row (`item_id, image, output, category, regions`) into an `Item`; relative URIs resolve to `base`.

    `raw` holds what is there (`tables`). Only what the row itself says is checked; files are not opened.
    """
    item_id = f"row-{row}"
    try:
        item_id = _item_id(raw.get("item_id"))
        if "conflict" in raw:
            raise ItemError("item.conflict", f"{raw['conflict']}; one item_id is one image")
        image = _uri(raw.get("image"), "image", base, access)
        regions = _from_json(raw.get("regions"))
        if not isinstance(regions, Sequence) or isinstance(regions, str) or not regions:
            raise ItemError("regions.none", "no region; give at least one box, mask or scribble")
        if len(regions) > MAX_REGIONS:
            raise ItemError("regions.too_many", f"{len(regions)} regions, at most {MAX_REGIONS} per image")
        parsed = tuple(_region(entry, i, base, access) for i, entry in enumerate(regions))
        if len({region.region_id for region in parsed}) < len(parsed):
            raise ItemError("region_id.duplicate", "two regions of one image have the same region_id")
        output = _output(raw.get("output"), item_id, image)
        return Item(item_id, image, output, parsed, row, _label(raw.get("category", ""), "category"))
    except ItemError as e:
        return RowProblem(row, item_id, e.reason, str(e)[:MAX_MESSAGE_CHARS])


def _from_json(value: Any) -> Any:
    """What a text cell of CSV holds in JSON; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _item_id(value: Any) -> str:
    value = text_of(value)
    if not isinstance(value, str) or not value.strip():
        raise ItemError("item_id.missing", f"item_id is {value!r}; every row needs a unique one")
    return _label(value, "item_id")


def _label(value: Any, field: str) -> str:
    """A name that logs and reports show on one line."""
    text = _text(text_of(value), field) or ""
    if len(text) > MAX_ID_CHARS:
        raise ItemError(f"{field}.invalid", f"{field} {text[:80]!r}: {len(text)} characters, at most {MAX_ID_CHARS}")
    _refuse_forging(text, field)
    return text


def _refuse_forging(text: str, field: str) -> None:
    if forging := forging_character(text):
        raise ItemError(f"{field}.invalid", f"{field} {text[:80]!r} holds {forging}; take it out")


def _text(value: Any, field: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ItemError(f"{field}.type", f"{field} is {value!r}, expected text")
    if not value.isascii() and any(
        "\ud800" <= c <= "\udfff" for c in value
    ):  # JSON can spell what UTF-8, and so the plan, cannot hold
        raise ItemError(
            f"{field}.invalid", f"{field} {value[:80]!r} holds half a surrogate pair; write whole characters"
        )
    return value


def _uri(value: Any, field: str, base: str, access: AccessSettings) -> str:
    text = _text(value, field)
    if not text or text.isspace():
        raise ItemError(f"{field}.missing", f"{field} is {value!r}; give a local path, file:// or s3://bucket/key")
    uri = storage.spelled_as_stored(storage.resolve(text, base))
    if uri.endswith("/"):  # on S3; local paths have lost it
        raise ItemError("uri.invalid", f"{field} {text!r} names a folder, expected a file")
    storage.check_access(uri, access)
    return uri


def _output(value: Any, item_id: str, image: str) -> str:
    """The output's path below `outputs/`; named by item id and the source's suffix unless given."""
    name = _text(text_of(value), "output") or item_id + posixpath.splitext(image)[1].lower()
    clean = posixpath.normpath(name.replace("\\", "/"))
    parts = clean.split("/")
    if posixpath.isabs(clean) or ".." in parts or clean == "." or "://" in name:
        raise ItemError("output.escapes", f"output {name!r} leads out of the run folder; give a plain name")
    _refuse_forging(name, "output")
    if any(len(os.fsencode(part)) > 240 or part.startswith(".tmp-") for part in parts):
        raise ItemError("output.invalid", f"output {name[:80]!r}: path parts are at most 240 bytes, not '.tmp-...'")
    return clean


def _region(raw: Any, index: int, base: str, access: AccessSettings) -> Region:
    if not isinstance(raw, Mapping):
        raise ItemError("region.type", f"region {index} is {type(raw).__name__}, expected a struct of {REGION_FIELDS}")
    unknown = [name for name in raw if name not in REGION_FIELDS]
    if unknown:
        raise ItemError("columns.unknown", f"region {index}: unknown fields {unknown}; known are {REGION_FIELDS}")
    region_id = str(index)
    if raw.get("region_id") is not None:
        region_id = _label(raw["region_id"], "region_id")
    shapes = [name for name in ("box", "mask", "scribble") if raw.get(name) is not None]
    if len(shapes) != 1:
        raise ItemError(
            "region.shape", f"region {region_id}: {shapes or 'none'} given; expected one of box, mask, scribble"
        )
    reference = raw.get("reference")
    return Region(
        region_id=region_id,
        prompt=_prompt(raw.get("prompt"), region_id),
        box=_box(raw["box"], region_id) if "box" in shapes else None,
        mask=_uri(raw["mask"], "mask", base, access) if "mask" in shapes else None,
        scribble=_scribble(raw["scribble"], region_id) if "scribble" in shapes else None,
        reference=None if reference is None else _uri(reference, "reference", base, access),
        seed=_seed(raw.get("seed"), region_id),
        paste=_paste(raw.get("paste"), region_id),
        references=_references(raw, region_id, base, access),
        **mask_reading(raw, region_id, "mask" in shapes),
    )


def _references(raw: Mapping[str, Any], region_id: str, base: str, access: AccessSettings) -> tuple[str, ...]:
    """Further references; in a table's cell a JSON list of strings."""
    given = raw.get("references")
    if given is None or (isinstance(given, str) and not given.strip()):
        return ()
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise ItemError("reference.type", f'region {region_id}: references is no list of files, such as ["a.png"]')
    most = MAX_REFERENCES - (raw.get("reference") is not None)
    if len(given) > most:
        raise ItemError(
            "reference.many", f"region {region_id}: {len(given)} references, {most} at most beside `reference`"
        )
    return tuple(_uri(one, "references", base, access) for one in given)


def mask_reading(raw: Mapping[str, Any], region_id: str, masked: bool) -> dict[str, Any]:
    """The fields that tell how a mask file is read, as `Region` has them."""
    given = {name: raw[name] for name in _MASK_FIELDS if raw.get(name) not in (None, "")}
    if given and not masked:
        raise ItemError("mask.setting", f"region {region_id}: {', '.join(given)} without a mask; give the mask file")
    if "mask_level" in given and "mask_class" in given:
        raise ItemError("mask.setting", f"region {region_id}: mask_level and mask_class exclude each other; give one")
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "mask_invert":
            found[name] = _BOOLEANS.get(str(value).strip().lower())
        else:
            found[name] = _sample_value(value, 1 if name == "mask_level" else 0)
        if found[name] is None:
            expected = "true or false" if name == "mask_invert" else "a whole number up to 65535, mask_level from 1"
            raise ItemError("mask.setting", f"region {region_id}: {name} {value!r}, expected {expected}")
    return found


def _sample_value(value: Any, least: int) -> int | None:
    number = whole_of(value)
    return number if number is not None and least <= number <= 0xFFFF else None


def _prompt(value: Any, region_id: str) -> str:
    text = _text(value, "prompt")
    if not text or not text.strip():
        raise ItemError("prompt.empty", f"region {region_id}: the prompt is empty; say what to refine")
    if len(text) > MAX_PROMPT_CHARS:
        raise ItemError("prompt.too_long", f"region {region_id}: {len(text)} characters, at most {MAX_PROMPT_CHARS}")
    return text


def _box(value: Any, region_id: str) -> Box:
    corners = pixels_of(value)
    if corners is None:
        raise ItemError(
            "box.invalid", f"region {region_id}: box {str(value)[:80]!r}, expected 4 whole numbers x0, y0, x1, y1"
        )
    x0, y0, x1, y1 = corners
    if x1 <= x0 or y1 <= y0:
        raise ItemError(
            "box.inverted",
            f"region {region_id}: box {[x0, y0, x1, y1]} is empty; "
            "corners are x0, y0, x1, y1 with x0 < x1 and y0 < y1, not x, y, width, height",
        )
    if x0 < 0 or y0 < 0:
        raise ItemError("box.outside", f"region {region_id}: box {[x0, y0, x1, y1]} begins outside the image; clip it")
    return x0, y0, x1, y1


def _scribble(value: Any, region_id: str) -> Scribble:
    """`{"strokes": [[[x, y], ...], ...], "width": px}`."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as e:
            raise ItemError("scribble.invalid", f"region {region_id}: scribble is not JSON: {e}") from e
    if not isinstance(value, Mapping) or set(value) - {"strokes", "width"}:
        raise ItemError(
            "scribble.invalid", f"region {region_id}: expected {{strokes: [[[x, y], ...], ...], width: px}}"
        )
    width = value.get("width")
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 4096:
        raise ItemError("scribble.width", f"region {region_id}: width {width!r}, expected 0 < px <= 4096")
    strokes = [_stroke(stroke, region_id) for stroke in _listed(value.get("strokes"))]
    if not strokes or sum(map(len, strokes)) > MAX_POINTS:
        raise ItemError("scribble.invalid", f"region {region_id}: 1 to {MAX_POINTS} points in all")
    length_px = sum(math.dist(a, b) for stroke in strokes for a, b in pairwise(stroke))
    if length_px > MAX_STROKES_PX:
        raise ItemError(
            "scribble.invalid", f"region {region_id}: {length_px:.0f} px of strokes, at most {MAX_STROKES_PX}"
        )
    return Scribble(tuple(strokes), float(width))


def _stroke(value: Any, region_id: str) -> tuple[tuple[float, float], ...]:
    points = [numbers_of(point) for point in _listed(value)]
    if not points or any(len(point) != 2 for point in points):
        raise ItemError("scribble.invalid", f"region {region_id}: every stroke needs one or more finite [x, y] points")
    return tuple((float(x), float(y)) for x, y in points)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _seed(value: Any, region_id: str) -> int | None:
    if value is None:
        return None
    seed = whole_of(value)
    if seed is None or not 0 <= seed < 1 << 63:
        inexact = "; a number this large is not exact as a float, keep the column whole" if _rounded(value) else ""
        raise ItemError(
            "seed.invalid",
            f"region {region_id}: seed {str(value)[:80]}, expected a whole number from 0 to 2^63 - 1{inexact}",
        )
    return seed


def _rounded(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer() and 0 <= value < 1 << 63


def _paste(value: Any, region_id: str) -> PastePolicy:
    if value is None or value == "mask":
        return "mask"
    if value == "box":
        return "box"
    raise ItemError("paste.invalid", f"region {region_id}: paste {value!r}, expected 'mask' or 'box'")
