"""Label Studio's JSON: tasks as it exports and imports them, its short form (JSON_MIN), and one annotation per file.

Its numbers are per cent of the image, a rectangle turns clockwise around its left upper corner, and a brush has an RLE
of its own (`run_lengths.brush_mask`). What people saw was the upright image, as browsers turn it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from refine_ops.annotations.embedded import embedded_mask
from refine_ops.annotations.export_record import ExportedImage, ExportedRegion
from refine_ops.annotations.files import GivenFile, listing, mapping, read_json, text
from refine_ops.annotations.kept import KEY, kept_item, kept_region, kept_under
from refine_ops.annotations.run_lengths import brush_data, brush_mask
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import (
    Drawn,
    DrawnImage,
    Outline,
    Painted,
    Reading,
    Rectangle,
    Remark,
    Shape,
    ellipse,
    number,
    ring,
    simplest,
    turned_rectangle,
    whole,
)
from refine_ops.errors import ItemError

_PROMPT: Final = "prompt"
"""The name of the text field per region in which an exported file shows the prompt, to be edited."""
_SHAPES: Final = ("rectangle", "polygon", "brush", "ellipse", "bitmask")
_NO_AREA: Final = ("keypoint", "vector", "number", "rating", "ranker", "relation", "choices", "taxonomy", "pairwise")
_DATA_URL: Final = "data:image/png;base64,"


def read(file: GivenFile, settings: ImportSettings) -> Iterator[Reading]:
    """One image per task and person, in the file's order.

    Raises:
        ItemError: it is not Label Studio's JSON.
    """
    data = read_json(file.uri)
    tasks = data if isinstance(data, list) else [data]
    if not all(isinstance(task, dict) for task in tasks):
        raise ItemError("file.invalid", f"annotation file {file.uri}: not Label Studio's JSON: expected tasks")
    for at, task in enumerate(tasks):
        place = f"[{at}]"
        try:
            yield from _task(_usual(task), place, settings)
        except ItemError as e:
            yield Remark.of(place, e)


def _usual(task: dict[str, Any]) -> dict[str, Any]:
    """A task in the usual form: of the short one its own columns are the data, lists of regions what was drawn; an
    annotation that was stored by itself has its task inside."""
    if isinstance(task.get("task"), dict) and "result" in task:
        return {**task["task"], "annotations": [{k: v for k, v in task.items() if k != "task"}]}
    if "data" in task:
        return task
    short = {k: v for k, v in task.items() if isinstance(v, list) and v and all(_is_short(r) for r in v)}
    results = [_long(r, i) for regions in short.values() for i, r in enumerate(regions)]
    drawn = {"id": task.get("annotation_id"), "completed_by": task.get("annotator"), "result": results}
    return {"data": {k: v for k, v in task.items() if k not in short}, "annotations": [drawn]}


def _is_short(region: Any) -> bool:
    return isinstance(region, dict) and "original_width" in region


def _long(region: dict[str, Any], index: int) -> dict[str, Any]:
    kinds = [k for k in region if k.endswith("labels") and isinstance(region[k], list)]
    sizes = {k: region.get(k) for k in ("original_width", "original_height", "image_rotation")}
    return {"id": str(index), "type": kinds[0] if kinds else "", "value": region, **sizes}


def _task(task: dict[str, Any], place: str, settings: ImportSettings) -> Iterator[Reading]:
    data = mapping(task.get("data"), "data")
    ours = kept_under(data)
    named, kept = _image_of(data), kept_item(ours)
    answers = listing(task.get("annotations", task.get("completions")), "annotations")
    kind = "annotations"
    cancelled = [a for a in answers if isinstance(a, dict) and a.get("was_cancelled")]
    if cancelled:
        yield Remark(place, "annotation.cancelled", "skipped by the annotator (was_cancelled)", left_out=False)
    answers = [a for a in answers if not (isinstance(a, dict) and a.get("was_cancelled"))]
    predicted = listing(task.get("predictions"), "predictions")
    if not answers and predicted and settings.predictions:
        answers, kind = predicted[-1:], "predictions"
    elif not answers and predicted:
        yield Remark(place, "predictions.unused", "only predicted; --predictions takes that", left_out=False)
    if settings.annotators == "latest" and len(answers) > 1:
        answers = [max(answers, key=lambda a: str(mapping(a, kind).get("updated_at", mapping(a, kind).get("id", ""))))]
    if not answers:
        yield DrawnImage(named, place, (), kept=kept)
    for at, answer in enumerate(answers):
        inside = f"{place}.{kind}[{at}]"
        answer = mapping(answer, inside)
        who = text(_person(answer.get("completed_by")), "completed_by") or (str(at) if len(answers) > 1 else "")
        sizes: list[tuple[int, int]] = []
        drawn = []
        for found in _regions(listing(answer.get("result"), f"{inside}.result"), f"{inside}.result", ours, who, sizes):
            if isinstance(found, Remark):
                yield found
            else:
                drawn.append(found)
        yield DrawnImage(named, place, tuple(drawn), sizes[0] if sizes else None, kept=kept)


def _person(value: Any) -> Any:
    return value.get("email", value.get("id")) if isinstance(value, dict) else value


def _image_of(data: dict[str, Any]) -> str:
    """The task's one image; its name in the data is the project's own choice."""
    if isinstance(data.get("image"), str):
        return str(data["image"])
    suffixes = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
    found = [v for v in data.values() if isinstance(v, str) and v.lower().split("?d=")[-1].endswith(suffixes)]
    if len(found) != 1:
        raise ItemError("image.unnamed", f"{len(found)} of the task's data look like an image; name the one 'image'")
    return found[0]


def _regions(
    results: list[Any], place: str, ours: dict[str, Any], who: str, sizes: list[tuple[int, int]]
) -> Iterator[Drawn | Remark]:
    """What has one id belongs together: a shape, its label, the text written to it."""
    together: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for at, result in enumerate(results):
        if not isinstance(result, dict):
            yield Remark(f"{place}[{at}]", "entry.invalid", f"expected an object, got {type(result).__name__}")
            continue
        key = result.get("id")
        together.setdefault(key if isinstance(key, str) else f"#{at}", []).append((at, result))
    kept = kept_under(ours, "regions")
    for key, parts in together.items():
        shown = next(((at, r) for at, r in parts if _kind(r) in _SHAPES), None)
        at, result = shown or parts[0]
        where = f"{place}[{at}]"
        if shown is None:
            kind = text(result.get("type"), "type")
            marks = "" if _kind(result) in _NO_AREA or kind in ("labels", "textarea") else "; only shapes are read"
            yield Remark(where, "shape.none", f"{kind or 'a result without a type'} marks no area{marks}")
            continue
        try:
            size = (
                whole(result.get("original_width"), "original_width", 1),
                whole(result.get("original_height"), "original_height", 1),
            )
            if sizes and size != sizes[0]:
                raise ItemError("image.size", f"drawn on {size[0]} x {size[1]} px, others here on {sizes[0]}")
            if number(result.get("image_rotation") or 0, "image_rotation") % 360:
                raise ItemError(
                    "image.rotated", "drawn on the image as its viewer had turned it; turn it back and draw it anew"
                )
            sizes[:] = sizes or [size]
            mine = kept_region(kept_under(kept, key))
            mine = replace(
                mine,
                region_id=mine.region_id or ("" if key.startswith("#") else key),
                prompt=_text_of(parts) or mine.prompt,
            )
            shape = _shape(mapping(result.get("value"), "value"), _kind(result), size)
            yield Drawn(shape, _label(parts), where, mine, who)
        except ItemError as e:
            yield Remark.of(where, e)


def _kind(result: Mapping[str, Any]) -> str:
    return str(result.get("type") or "").removesuffix("labels")


def _label(parts: list[tuple[int, dict[str, Any]]]) -> str:
    for _, result in parts:
        value = result.get("value")
        for name, given in value.items() if isinstance(value, dict) else ():
            if name.endswith("labels") and isinstance(given, list) and given:
                return ", ".join(str(one) for one in given)
    return ""


def _text_of(parts: list[tuple[int, dict[str, Any]]]) -> str:
    """What was written into the field `prompt` of a region."""
    for _, result in parts:
        value = result.get("value")
        if result.get("type") == "textarea" and result.get("from_name") == _PROMPT and isinstance(value, dict):
            given = value.get("text")
            return text(given[-1] if isinstance(given, list) and given else given or "", "text")
    return ""


def _shape(value: dict[str, Any], kind: str, size: tuple[int, int]) -> Shape:
    width, height = size

    def across(name: str) -> float:
        return number(value.get(name), name) / 100 * width

    def down(name: str) -> float:
        return number(value.get(name), name) / 100 * height

    turn = number(value.get("rotation") or 0, "rotation")
    if kind == "rectangle":
        x, y = across("x"), down("y")
        return turned_rectangle(x, y, across("width"), down("height"), turn, (x, y))
    if kind == "ellipse":
        return ellipse(across("x"), down("y"), across("radiusX"), down("radiusY"), turn)
    if kind == "polygon":
        return simplest(Outline((ring(value.get("points", ()), "points") * (width / 100, height / 100),)))
    if kind == "bitmask":
        return _bitmap(value.get("imageDataURL"))
    if value.get("format") != "rle":
        raise ItemError("rle.invalid", f"a brush in the format {value.get('format')!r}, expected 'rle'")
    return Painted(width, height, partial(brush_mask, value.get("rle"), size, "rle"))


def _bitmap(url: Any) -> Painted:
    """A PNG in a data URL, of which what is opaque is marked."""
    if not isinstance(url, str) or not url.startswith(_DATA_URL):
        raise ItemError("bitmap.invalid", "imageDataURL: no PNG in a data URL")
    return embedded_mask(url[len(_DATA_URL) :], "imageDataURL", whole=True)


def write(images: Iterable[ExportedImage]) -> Iterator[str]:
    """Tasks with what is marked as predictions, in pieces of JSON; `labeling_config` shows them."""
    yield "["
    for index, image in enumerate(images):
        results: list[dict[str, Any]] = []
        kept: dict[str, Any] = {}
        for number_, region in enumerate(image.regions):
            # Its editor cuts an id at '#', where it puts the annotation's own.
            key = region.region_id if "#" not in region.region_id else f"{number_}-{region.label}".replace("#", "")
            kept[key] = region.kept
            results += _results(region, key, image.size)
        ours = {"item_id": image.item_id, "output": image.output, "category": image.category, "regions": kept}
        scores = [region.score for region in image.regions if region.score is not None]
        prediction = {"model_version": "refine-ops", "result": results, **({"score": min(scores)} if scores else {})}
        task = {"data": {"image": image.named, KEY: ours}, "predictions": [prediction]}
        yield f"{',' if index else ''}\n{json.dumps(task)}"
    yield "\n]\n"


def _results(region: ExportedRegion, key: str, size: tuple[int, int]) -> list[dict[str, Any]]:
    width, height = size
    shared = {"id": key, "to_name": "image", "original_width": width, "original_height": height}
    shared |= {"image_rotation": 0} | ({} if region.score is None else {"score": region.score})
    if isinstance(region.shape, Rectangle):
        kind, box = "rectanglelabels", region.shape
        value: dict[str, Any] = {"x": box.x0 / width * 100, "y": box.y0 / height * 100, "rotation": 0}
        value |= {"width": (box.x1 - box.x0) / width * 100, "height": (box.y1 - box.y0) / height * 100}
    else:
        kind, value = "brushlabels", {"format": "rle", "rle": brush_data(region.shape)}
    drawn = {**shared, "type": kind, "from_name": kind, "value": {**value, kind: [region.label]}}
    said = {**shared, "type": "textarea", "from_name": _PROMPT, "value": {**value, "text": [region.prompt]}}
    if kind == "brushlabels":
        said["value"] = {"text": [region.prompt]}
    return [drawn, said]


def labeling_config(labels: Iterable[str]) -> str:
    """The interface in which an exported file can be corrected: boxes, brush, polygons, and the prompt per region."""
    from xml.sax.saxutils import quoteattr

    choices = "".join(f"\n      <Label value={quoteattr(label)}/>" for label in labels)
    tags = ("RectangleLabels", "PolygonLabels", "EllipseLabels", "BrushLabels")
    shapes = "".join(f'\n    <{tag} name="{tag.lower()}" toName="image">{choices}\n    </{tag}>' for tag in tags)
    said = f'<TextArea name="{_PROMPT}" toName="image" perRegion="true" editable="true" maxSubmissions="1"/>'
    return f'<View>\n    <Image name="image" value="$image" zoom="true"/>{shapes}\n    {said}\n</View>\n'
