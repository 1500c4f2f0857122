"""What a caller hands over -- paths, folders, bytes, arrays, PIL images -- as the item that a manifest would name."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError
from refine_ops.image.formats.native import IMAGE_SUFFIXES
from refine_ops.job.planning.rows import MAX_REFERENCES, RowProblem, parse_row
from refine_ops.records import Item, Region

Picture = str | os.PathLike[str] | bytes | npt.NDArray[Any] | Image.Image
"""A path or URI, a file's bytes, an array `uint8 (H, W[, 3 or 4])` or `bool (H, W)`, or a PIL image.

Only a path or bytes keep the file's own format and metadata; arrays and PIL images are taken as PNG.
"""
References = Picture | Sequence[Picture]
"""One picture, several, or the path of a folder (`s3://bucket/prefix/`) whose pictures are meant."""

PROMPT: Final = "Refine the details of the object in the marked region."
PROMPT_WITH_REFERENCE: Final = "Refine the object in the masked region using the reference image."


def given_item(
    image: Picture, regions: Sequence[Mapping[str, Any]], max_bytes: int, access: AccessSettings
) -> tuple[Item, dict[str, bytes]]:
    """The item that a manifest would name, and its inputs' bytes by the names the item has for them.

    Raises:
        ItemError: a picture cannot be read, or a region is not what a manifest's may be.
    """
    inputs: dict[str, bytes] = {}
    source = _named(image, "image", inputs, access, max_bytes)
    rows, files = [], []
    for index, region in enumerate(regions):
        names: dict[str, Any] = {}
        if region.get("mask") is not None:
            names["mask"] = _named(region["mask"], _label("mask", index), inputs, access, max_bytes)
        shown = [one for name in ("reference", "references") for one in _each(region.get(name), access)]
        _refuse_many(shown, index)
        if shown:
            first, *others = (
                _named(one, _label("reference", index, n), inputs, access, max_bytes) for n, one in enumerate(shown)
            )
            names |= {"reference": first, "references": tuple(others)}
        prompt = PROMPT_WITH_REFERENCE if shown else PROMPT
        said = {k: v for k, v in region.items() if k not in ("mask", "reference", "references")}
        plain = {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in said.items()}
        rows.append({"prompt": prompt, **plain, **({"mask": "mask"} if "mask" in names else {})})
        files.append(names)
    parsed = parse_row(0, {"item_id": PurePosixPath(source).stem, "image": "image", "regions": rows}, "/", access)
    if isinstance(parsed, RowProblem):
        raise ItemError(parsed.reason, f"{source}: {parsed.message}")
    kept: tuple[Region, ...] = tuple(
        replace(region, **names) for region, names in zip(parsed.regions, files, strict=True)
    )
    return replace(parsed, image=source, regions=kept), inputs


def _label(what: str, region: int, number: int = 0) -> str:
    """What messages call a picture that has no name: `mask`, `reference 1` for the second region's."""
    return what + (f" {region}" if region else "") + (f" ({number + 1})" if number else "")


def _each(given: References | None, access: AccessSettings) -> list[Picture]:
    """The pictures that are meant by one, several, or folders of them."""
    if given is None:
        return []
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return [one for several in given for one in _each(several, access)]
    if not isinstance(given, str | os.PathLike):
        return [given]
    uri = storage.resolve(os.fspath(given), os.getcwd())
    if not (uri.endswith("/") if storage.is_s3(uri) else os.path.isdir(uri)):
        return [given]
    storage.check_access(uri, access)
    found = [one for one in storage.list_files(uri) if one.lower().endswith(IMAGE_SUFFIXES)]
    if not found:
        raise ItemError("file.missing", f"{given}: a folder without pictures ({', '.join(IMAGE_SUFFIXES)})")
    return list(found)


def _refuse_many(shown: Sequence[Picture], index: int) -> None:
    if len(shown) > MAX_REFERENCES:
        raise ItemError(
            "reference.many",
            f"region {index}: {len(shown)} references, at most {MAX_REFERENCES}; name those that show what is marked",
        )


def _named(picture: Picture, what: str, inputs: dict[str, bytes], access: AccessSettings, max_bytes: int) -> str:
    """Put the picture's bytes into `inputs` and return the name they have there."""
    if isinstance(picture, str | os.PathLike):
        uri = storage.spelled_as_stored(storage.resolve(os.fspath(picture), os.getcwd()))
        if uri.endswith("/"):  # on S3; local paths have lost it
            raise ItemError("uri.invalid", f"{uri} is no file; write s3://bucket/key")
        storage.check_access(uri, access)
        if uri not in inputs:
            inputs[uri] = storage.read(uri, max_bytes)
        return uri
    inputs[what] = picture if isinstance(picture, bytes) else _png(picture, what)
    return what


def _png(picture: npt.NDArray[Any] | Image.Image, what: str) -> bytes:
    if isinstance(picture, np.ndarray):
        if picture.dtype == np.bool_:
            picture = picture.astype(np.uint8) * np.uint8(255)
        shown = picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))
        if picture.dtype != np.uint8 or not shown:
            raise ItemError(
                "image.unsupported",
                f"{what}: an array {picture.dtype} {picture.shape}, expected uint8 (H, W[, 3 or 4]) or bool (H, W)",
            )
        picture = Image.fromarray(np.ascontiguousarray(picture))
    if picture.mode not in ("L", "LA", "P", "RGB", "RGBA", "1", "I;16"):
        raise ItemError("image.unsupported", f"{what}: a PIL image of mode {picture.mode!r}; convert it to 'RGB'")
    out = io.BytesIO()
    (picture.convert("L") if picture.mode == "1" else picture).save(out, "PNG", compress_level=1)
    return out.getvalue()
