"""Annotation files as what is in them: JSON, XML and text of a stranger, within limits."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from refine_ops import storage
from refine_ops.errors import ItemError, JobError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


@dataclass(frozen=True, slots=True)
class GivenFile:
    """An annotation file, and the folder it was given with: the one that was named, or its own."""

    uri: str
    folder: str

    @property
    def relative(self) -> str:
        """Its path below that folder."""
        return self.uri.removeprefix(self.folder).lstrip("/")


MAX_BYTES: Final = 1 << 30
"""Of one annotation file: a COCO file of a million boxes has 0.2 GiB and takes ten times that while it is read."""


def read_text(uri: str) -> str:
    """A text file in UTF-8, with or without a byte-order mark.

    Raises:
        ItemError: `file.*`: it cannot be read, is too large, or is no text.
    """
    try:
        return storage.read(uri, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise ItemError(
            "file.invalid", f"annotation file {uri}: not text in UTF-8 ({e.reason} at byte {e.start})"
        ) from e


def read_json(uri: str) -> Any:
    """A JSON document. NaN and Infinity are let in, so that one of them costs its entry and not the file.

    Raises:
        ItemError: as `read_text`, and where it is not JSON.
    """
    try:
        return json.loads(read_text(uri))
    except (ValueError, RecursionError) as e:
        raise ItemError(
            "file.invalid", f"annotation file {uri}: not JSON ({e}); is it complete, and of the format you named?"
        ) from e


def read_xml(uri: str, root: str) -> "Element":
    """The root element of an XML document, which must be called `root`.

    Raises:
        ItemError: `file.*`: it cannot be read, is not XML, has another root, or declares a document type, whose
            entities could name files or grow without end.
        JobError: the extra `annotations` is not installed.
    """
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError as e:
        raise JobError("reading XML needs defusedxml: pip install 'refine-ops[annotations]'") from e
    try:
        element: Element = fromstring(storage.read(uri, MAX_BYTES), forbid_dtd=True)
    except DefusedXmlException as e:
        said = f"annotation file {uri}: it declares a document type or entities, which is refused"
        raise ItemError("file.invalid", said) from e
    except (ParseError, ValueError, LookupError) as e:  # a wrong or unknown encoding is one of the latter two
        said = f"annotation file {uri}: not XML ({e}); is it complete, and of the format you named?"
        raise ItemError("file.invalid", said) from e
    if element.tag != root:
        raise ItemError("file.invalid", f"annotation file {uri}: its root is <{element.tag[:80]}>, expected <{root}>")
    return element


def mapping(value: Any, name: str) -> dict[str, Any]:
    """The JSON object that is expected here.

    Raises:
        ItemError: `entry.invalid`.
    """
    if not isinstance(value, dict):
        raise ItemError("entry.invalid", f"{name}: expected an object, got {type(value).__name__}")
    return value


def listing(value: Any, name: str) -> list[Any]:
    """The JSON list that is expected here, or none where there is nothing. Raises as `mapping`."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ItemError("entry.invalid", f"{name}: expected a list, got {type(value).__name__}")
    return value


def text(value: Any, name: str) -> str:
    """Text, or a number as text; empty where there is nothing. Raises as `mapping`."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ItemError("entry.invalid", f"{name}: expected text, got {type(value).__name__}")
    return str(value)
