"""Which formats there are."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from refine_ops import storage
from refine_ops.annotations.export_record import ExportedImage
from refine_ops.annotations.formats import coco, label_studio
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import Reading
from refine_ops.errors import JobError


def _named(suffix: str) -> Callable[[Sequence[str]], list[str]]:
    """The files that were given, and those with this suffix below folders that were given."""

    def files(given: Sequence[str]) -> list[str]:
        found: list[str] = []
        for one in map(storage.resolve, given):
            inside = [] if one.lower().endswith(suffix) else list(storage.list_files(one, suffix))
            found += inside or [one]
        if not found:
            raise JobError("no annotation file was given")
        return found

    return files


@dataclass(frozen=True, slots=True)
class Format:
    """One tool's files. `upright` says that its users saw photos turned upright (EXIF), whatever the file says of
    their size; `suffixes` that its files name images without a suffix, and which are tried then."""

    read: Callable[[str, ImportSettings], Iterator[Reading]]
    files: Callable[[Sequence[str]], list[str]]
    upright: bool = False
    suffixes: tuple[str, ...] = ()
    write: Callable[[Iterable[ExportedImage]], Iterator[str]] | None = None


FORMATS: Final[dict[str, Format]] = {
    "coco": Format(coco.read, _named(".json"), write=coco.write),
    "label-studio": Format(label_studio.read, _named(".json"), upright=True, write=label_studio.write),
}
