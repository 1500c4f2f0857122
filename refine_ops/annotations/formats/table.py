"""Which formats there are."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from refine_ops import storage
from refine_ops.annotations.export_record import ExportedImage
from refine_ops.annotations.files import GivenFile
from refine_ops.annotations.formats import coco, cvat, label_studio, labelme, masks, via, voc, yolo
from refine_ops.annotations.images import SUFFIXES
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import Reading
from refine_ops.errors import JobError


@dataclass(frozen=True, slots=True)
class Format:
    """One tool's files.

    `upright` says that its users saw photos turned upright (EXIF), whatever a file says of their size; `ending` are
    the files that are taken from a folder, but for those called one of `besides`; `stems` says that a file names its
    image without a suffix.
    """

    read: Callable[[GivenFile, ImportSettings], Iterator[Reading]]
    ending: tuple[str, ...]
    upright: bool = False
    besides: tuple[str, ...] = ()
    stems: bool = False
    write: Callable[[Iterable[ExportedImage]], Iterator[str]] | None = None
    forget: Callable[[], None] = lambda: None
    """Called before an import: what an earlier one looked up may have changed."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Those that an image may have where files name it without."""
        return SUFFIXES if self.stems else ()

    def files(self, given: Sequence[str]) -> Iterator[GivenFile]:
        """The files that were given, and those below folders that were given, in order.

        Raises:
            JobError: a folder has none.
        """
        for one in map(storage.resolve, given):
            if one.lower().endswith(self.ending) or os.path.isfile(one):
                yield GivenFile(one, storage.folder_of(one))
                continue
            inside = (uri for uri in storage.list_files(one) if self._is_one(uri))
            first = next(inside, None)
            if first is None:
                raise JobError(f"{one}: no annotation file ({', '.join(self.ending)}), nor a folder that has any")
            yield GivenFile(first, one)
            yield from (GivenFile(uri, one) for uri in inside)

    def _is_one(self, uri: str) -> bool:
        return uri.lower().endswith(self.ending) and uri.rpartition("/")[2] not in self.besides


FORMATS: Final[dict[str, Format]] = {
    "coco": Format(coco.read, (".json",), write=coco.write),
    "label-studio": Format(label_studio.read, (".json",), upright=True, write=label_studio.write),
    "cvat": Format(cvat.read, (".xml",), upright=True),
    "via": Format(via.read, (".json",), upright=True),
    "labelme": Format(labelme.read, (".json",), upright=True),
    "yolo": Format(yolo.read, (".txt",), besides=yolo.NO_LABELS, stems=True, forget=yolo.forget),
    "voc": Format(voc.read, (".xml",)),
    "masks": Format(masks.read, masks.SUFFIXES, stems=True, forget=masks.forget),
}
