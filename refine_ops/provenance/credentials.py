"""A file's Content Credentials as boxes and as what the C2PA library reads of them; hostile ones never reach it."""

import io
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.codec import ParsedFile

_MAX_STORE_BYTES: Final = 32 << 20
_MAX_DEPTH: Final = 16
"""A store of claims, assertions and databoxes is five deep."""
_MAX_BOXES: Final = 50_000
_UNTRUSTED: Final = "signingCredential.untrusted"
_OFFLINE: Final = {
    "version": 1,
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""The library asks nobody, and makes no thumbnails: they would be most of the cost."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the library finds: `state` is its word ("Valid", "Trusted", "Invalid"), `failures` its codes, those of
    parents too, `manifest` the active manifest."""

    state: str
    failures: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Hashes and signature are right. Who signed is another question: no list of trusted signers is bundled."""
        return self.state in ("Valid", "Trusted")


def library() -> ModuleType:
    """`c2pa`, imported where it is needed first.

    Raises:
        JobError: it is not installed.
    """
    try:
        import c2pa
    except ImportError as error:
        raise JobError(f"Content Credentials need the extra: pip install 'refine-ops[provenance]' ({error})") from error
    return c2pa  # type: ignore[no-any-return]


def context() -> Any:
    return library().Context.from_dict(_OFFLINE)


def media_type(file: ParsedFile) -> str:
    return f"image/{file.format}"


def read(file: ParsedFile) -> Reading:
    """The file's credential, checked against its bytes.

    Raises:
        ItemError: `provenance.bad_credential` -- it has none, or one that is no manifest store.
    """
    check_boxes(store(file), file.name)
    c2pa = library()
    try:
        with c2pa.Reader(media_type(file), io.BytesIO(file.data), context=context()) as reader:
            found = json.loads(reader.json())
            state = reader.get_validation_state() or ""
    except c2pa.C2paError as error:
        raise _bad(file.name, str(error)) from error
    results = found.get("validation_results", {})
    parents = [delta["validationDeltas"] for delta in results.get("ingredientDeltas", ())]
    codes = [
        entry["code"] for part in (results.get("activeManifest", {}), *parents) for entry in part.get("failure", ())
    ]
    return Reading(
        state,
        tuple(code for code in dict.fromkeys(codes) if code != _UNTRUSTED),
        found["manifests"].get(found.get("active_manifest"), {}),
    )


def store(file: ParsedFile) -> bytes:
    """The manifest store: JPEG cuts it over segments, each with the box's header behind 8 bytes of its own."""
    parts = [payload for _, payload in file.credentials()]
    if file.format != "jpeg":
        return b"".join(parts)
    first, *others = parts or [b""]
    header = 16 if first[8:12] == b"\0\0\0\1" else 8
    return first[8:] + b"".join(part[8 + header :] for part in others)


def check_boxes(boxes: bytes, name: str) -> None:
    """Before a library recurses into them: every box lies inside its parent, and there are not too many.

    Raises:
        ItemError: `provenance.bad_credential`.
    """
    if len(boxes) > _MAX_STORE_BYTES:
        raise _bad(name, f"{len(boxes):,} bytes, over {_MAX_STORE_BYTES:,}")
    waiting, seen = [(0, len(boxes), 0)], 0
    while waiting:
        start, end, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise _bad(name, f"boxes nested over {_MAX_DEPTH} deep")
        for kind, body, closes in _boxes(boxes, start, end, name):
            seen += 1
            if seen > _MAX_BOXES:
                raise _bad(name, f"over {_MAX_BOXES:,} boxes")
            if kind == b"jumb":
                waiting.append((body, closes, depth + 1))
    if not seen:
        raise _bad(name, "it is empty")


def _boxes(boxes: bytes, start: int, end: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    """(kind, where its body begins, where it ends) of the boxes between two offsets."""
    at = start
    while at < end:
        if at + 8 > end:
            raise _bad(name, "a box is cut")
        size, kind = struct.unpack_from(">I4s", boxes, at)
        body = at + 8
        if size == 1 and at + 16 <= end:
            (size,), body = struct.unpack_from(">Q", boxes, body), at + 16
        closes = end if size == 0 else at + size
        if closes < body or closes > end:
            raise _bad(name, f"a box of {size:,} bytes does not fit where it lies")
        yield kind, body, closes
        at = closes


def _bad(name: str, problem: str) -> ItemError:
    return ItemError(
        "provenance.bad_credential",
        f"{name}: its Content Credentials cannot be read ({problem}); get the file anew, or set provenance.existing to "
        "'strip'",
    )
