"""Annotation files in, a manifest and its masks out."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from refine_ops import storage
from refine_ops.annotations.files import GivenFile
from refine_ops.annotations.formats.table import FORMATS, Format
from refine_ops.annotations.image_rows import Given, Imported, RowMaker, full_place
from refine_ops.annotations.images import Header, ImageRoot, read_header
from refine_ops.annotations.manifest_file import ManifestFile
from refine_ops.annotations.settings import ImportSettings
from refine_ops.annotations.shapes import Reading, Remark
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.progress import OnProgress, no_progress

_THREADS: Final = 8
_CHUNK: Final = 64


def import_annotations(
    name: str,
    files: Sequence[str],
    out: str,
    settings: ImportSettings,
    *,
    on_progress: OnProgress = no_progress,
) -> Imported:
    """Read `files` of one format and write the manifest `out` (Parquet or JSONL), with masks in `<out>.masks/`.

    Memory holds what was drawn on all images, as one image may be named in several places; pixels are made one image
    after another.

    Raises:
        JobError: an unknown format, a file that is none of it, nothing that can be refined, or no place to write.
    """
    form = FORMATS.get(name)
    if form is None:
        raise JobError(f"no annotation format {name!r}; there are {', '.join(FORMATS)}")
    found, root = Imported(), ImageRoot(settings.images)
    images = _gathered(form, files, root, settings, found)
    target = ManifestFile(storage.resolve(out))
    maker = RowMaker(settings, root, target, found, form)
    with target, ThreadPoolExecutor(_THREADS) as pool:
        entries = list(images.items())
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            headers = pool.map(lambda entry: _header(entry[0], settings.limits), chunk)
            for (uri, given), header in zip(chunk, headers, strict=True):
                maker.add(uri, given, header)
            on_progress(start + len(chunk), len(entries))
        if not found.items:
            raise JobError(f"nothing can be refined, {out} was not written:\n{_told(found)}")
    return found


def _told(found: Imported) -> str:
    first = [f"  {r.place}: {r.message}" for r in found.remarks[:5]]
    return "\n".join([found.describe(), *first])


def _gathered(
    form: Format, files: Sequence[str], root: ImageRoot, settings: ImportSettings, found: Imported
) -> dict[str, list[Given]]:
    """What was drawn by image, in the order in which the images first come."""
    images: dict[str, list[Given]] = {}
    form.forget()
    for file, entry in _entries(form, files, settings, found):
        entry_place = full_place(file.uri, entry.place)
        if isinstance(entry, Remark):
            found.note(Remark(entry_place, entry.reason, entry.message, entry.left_out))
            continue
        try:
            uri, straight = root.find(entry.image, entry.beside, suffixes=form.suffixes)
            storage.check_access(uri, settings.access)
        except ItemError as e:
            found.note(Remark.of(entry_place, e))
            continue
        if not straight:
            said = f"{entry.image[:200]} was taken to be {uri}"
            found.note(Remark(entry_place, "image.found_by_end", said, left_out=False))
        images.setdefault(uri, []).append((file.uri, entry))
    return images


def _entries(
    form: Format, files: Sequence[str], settings: ImportSettings, found: Imported
) -> Iterator[tuple[GivenFile, Reading]]:
    """All that stands in the files; one that cannot be read is listed, and the others are."""
    for file in form.files(files):
        try:
            for entry in form.read(file, settings):
                yield file, entry
        except ItemError as e:
            found.note(Remark.of(file.uri, e))


def _header(uri: str, limits: ImageLimits) -> Header | ItemError:
    try:
        return read_header(uri, limits)
    except ItemError as e:
        return e
