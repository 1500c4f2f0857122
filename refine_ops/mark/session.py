"""What is being marked: images, their regions, and the manifest that always holds the last of them."""

import os
import posixpath
import re
import shlex
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Final

from refine_ops import storage
from refine_ops.config import AccessSettings, ImageLimits
from refine_ops.errors import ItemError, JobError, RefineError
from refine_ops.job.planning.rows import RowProblem, parse_row
from refine_ops.mark.folder import FoundImage, ListedFolder
from refine_ops.mark.manifest_file import manifest_bytes, read_marked
from refine_ops.mark.pictures import ShownPictures, overlay_png
from refine_ops.mark.regions import MaskPainter, PageRegion, PageRegions, base_mask, from_page, mask_png, to_page
from refine_ops.records import Item, MaskReading, Region

_PLAIN_NAME: Final = re.compile(r"[^\w-]+")
_NAME_CHARS: Final = 40


class Superseded(RefineError):
    """What the page changed is not the latest any more: another tab, or another program, was there first."""


@dataclass(slots=True)
class _Marked:
    """One image of the folder. `item` is its row, kept without regions where the last one was deleted, so that it gets
    its id and category back with the next one; `version` counts its changes, the last of which came from `tab`."""

    found: FoundImage
    item: Item | None = None
    version: int = 0
    tab: str = ""


@dataclass(slots=True)
class MarkSession:
    """The state behind the page. Its methods may be called from any thread.

    `rows` are all items of the manifest in their order, those of images elsewhere among them: they are kept as they
    are. Every change is on the disk before `put` returns.
    """

    folder: str
    manifest: str
    images: list[_Marked]
    references: tuple[FoundImage, ...]
    pictures: ShownPictures
    painter: MaskPainter
    rows: dict[str, Item]
    before: bytes | None
    identity: str
    known: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    changes: int = 0
    saved: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)
    saving: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(
        cls,
        manifest: str,
        listed: ListedFolder,
        references: tuple[FoundImage, ...] = (),
        limits: ImageLimits | None = None,
    ) -> "MarkSession":
        """
        Raises:
            JobError: the manifest cannot be read or written, or a row of it would be lost.
        """
        manifest, limits = storage.resolve(manifest), limits or ImageLimits()
        items = read_marked(manifest)
        before = storage.read(manifest) if items else None
        storage.probe_writable(storage.folder_of(manifest))
        rows = {item.item_id: item for item in items}
        if len(rows) < len(items):
            raise JobError(f"{manifest}: two rows have one item_id; `refine-ops check {manifest}` says which")
        row_of = {_place(item.image): item for item in reversed(items)}
        masks = {r.mask for item in items for r in item.regions if r.mask is not None}
        images = [_Marked(found, row_of.get(_place(found.uri))) for found in listed.images if found.uri not in masks]
        session = cls(
            listed.folder,
            manifest,
            images,
            references,
            ShownPictures(limits),
            MaskPainter(limits),
            rows,
            before,
            _identity(manifest),
        )
        session.known = masks | {uri for item in items for r in item.regions for uri in r.all_references}
        session.known |= {reference.uri for reference in references}
        return session

    @property
    def marked(self) -> tuple[int, int]:
        """Images of the folder that have regions, and their regions."""
        with self.lock:
            counts = [len(image.item.regions) for image in self.images if image.item is not None and image.item.regions]
        return len(counts), sum(counts)

    @property
    def command(self) -> str:
        """What to type next."""
        near = os.path.relpath(self.manifest)
        return f"refine-ops run {shlex.quote(self.manifest if near.startswith('..') else near)}"

    @property
    def elsewhere(self) -> int:
        """Rows of images that are not in the folder."""
        here = {image.item.item_id for image in self.images if image.item is not None}
        return sum(item_id not in here for item_id in self.rows)

    def overview(self) -> dict[str, Any]:
        """What the page begins with."""
        with self.lock:
            return {
                "name": posixpath.basename(self.folder) or self.folder,
                "manifest": self.manifest,
                "manifest_name": posixpath.basename(self.manifest),
                "command": self.command,
                "images": [image.found.name for image in self.images],
                "counts": [len(image.item.regions) if image.item else 0 for image in self.images],
                "references": [{"uri": r.uri, "name": r.name} for r in self.references],
            }

    def image(self, number: int) -> dict[str, Any]:
        """Size and regions of an image, as the page holds them.

        Raises:
            ItemError: a run could not read it; the message is shown in its place.
        """
        image = self._at(number)
        width, height = self.pictures.size(image.found.uri)
        with self.lock:
            regions = image.item.regions if image.item else ()
            return {
                "width": width,
                "height": height,
                "version": image.version,
                "regions": [to_page(region) for region in regions],
            }

    def put(self, number: int, sent: PageRegions) -> int:
        """Give an image these regions, and save. Returns its new version.

        Raises:
            ItemError: a region cannot be one; nothing is changed.
            Superseded: another tab changed the image, or another program the manifest.
            JobError: it cannot be written.
        """
        image = self._at(number)
        size = self.pictures.size(image.found.uri)
        with self.lock:
            if sent.version != image.version and not (sent.tab and sent.tab == image.tab):
                raise Superseded("this image was changed in another tab; it is shown again as it is now")
            item = self._item(image, sent.regions, size)
            before = (image.item, image.version, image.tab, self.rows.get(item.item_id))
            image.item, image.version, image.tab = item, image.version + 1, sent.tab
            if item.regions:
                self.rows[item.item_id] = item
            else:
                self.rows.pop(item.item_id, None)
            self.changes += 1
            change, new_version = self.changes, image.version
        try:
            self._save(change)
        except RefineError:
            with self.lock:
                if image.version == new_version:  # the page still holds the change, and will send it again
                    image.item, image.version, image.tab, row = before
                    self._restore(item.item_id, row)
            raise
        return new_version

    def mask_overlay(self, number: int, uri: str, reading: MaskReading, *, resize: bool) -> bytes:
        """A mask of the manifest, as the page lays it over an image. Raises: ItemError."""
        self._allow(uri)
        size = self.pictures.size(self._at(number).found.uri)
        return overlay_png(base_mask(uri, size, reading, self.pictures.limits, resize=resize))

    def close(self) -> None:
        """Remove the mask files of this session that the manifest does not name: each stroke made one."""
        with self.lock:
            named = {region.mask for item in self.rows.values() for region in item.regions}
            for uri in self.made - named:
                storage.delete(uri)
            self.made &= {uri for uri in named if uri is not None}

    def uri_of(self, number: int) -> str:
        return self._at(number).found.uri

    def _at(self, number: int) -> _Marked:
        if not 0 <= number < len(self.images):
            raise ItemError("image.unknown", f"there is no image {number}; the folder has {len(self.images)}")
        return self.images[number]

    def _allow(self, uri: str | None) -> None:
        """The page may name what the manifest or the references' folder named, and nothing else."""
        if uri is not None and uri not in self.known:
            raise ItemError("uri.forbidden", f"{uri[:200]!r} is neither in the manifest nor in the references' folder")

    def _item(self, image: _Marked, regions: tuple[PageRegion, ...], size: tuple[int, int]) -> Item:
        """The image's row with these regions, checked as `read_items` checks rows."""
        base = image.item or self._new_row(image.found)
        if not regions:
            return replace(base, regions=())
        for region in regions:
            for uri in (region.reference, *region.references, region.mask.base if region.mask else None):
                self._allow(uri)
        rows = [from_page(r, lambda masked: self._kept_mask(base.item_id, masked, size)) for r in regions]
        row = {
            "item_id": base.item_id,
            "image": base.image,
            "output": base.output,
            "category": base.category,
            "regions": rows,
        }
        parsed = parse_row(base.row, row, storage.folder_of(self.manifest), AccessSettings())
        if isinstance(parsed, RowProblem):
            raise ItemError(parsed.reason, parsed.message)
        for checked in parsed.regions:
            _check_inside(checked, size)
        return parsed

    def _new_row(self, found: FoundImage) -> Item:
        """An id that reads well: the name without its suffix, or with it where another image has that id already."""
        plain, suffix = posixpath.splitext(found.name)
        rows = {*self.rows.values(), *(image.item for image in self.images if image.item is not None)}
        ids, outputs = {row.item_id for row in rows}, {row.output for row in rows}
        twins = sum(posixpath.splitext(image.found.name)[0] == plain for image in self.images) > 1
        item_id, output = found.name if twins or plain in ids else plain, found.name
        while item_id in ids or output in outputs:
            item_id, plain = f"{item_id}-2", f"{plain}-2"
            output = plain + suffix
        return Item(item_id, found.uri, output, (), 0)

    def _kept_mask(self, item_id: str, region: PageRegion, size: tuple[int, int]) -> str:
        """The file of a painted mask, named by its content: no file that a manifest names is ever written over."""
        data = mask_png(self.painter.painted(region, size))
        stem = posixpath.splitext(posixpath.basename(self.manifest))[0]
        named = _PLAIN_NAME.sub("-", f"{posixpath.basename(item_id)}-{region.region_id}")[:_NAME_CHARS].strip("-")
        name = f"{named}-{storage.sha256(data)[:16]}.png"
        uri = storage.join(storage.folder_of(self.manifest), f"{stem}.masks", name)
        if not storage.exists(uri):
            storage.write(uri, data, only_if_absent=True)
            self.made.add(uri)
        self.known.add(uri)
        return uri

    def _restore(self, item_id: str, row: Item | None) -> None:
        if row is None:
            self.rows.pop(item_id, None)
        else:
            self.rows[item_id] = row

    def _save(self, change: int) -> None:
        """Write the manifest with at least `change` in it; changes that wait for the same write share the next."""
        with self.saving:
            with self.lock:
                if self.saved >= change:
                    return
                items, latest = list(self.rows.values()), self.changes
            if _identity(self.manifest) != self.identity:
                raise Superseded(
                    f"{self.manifest} was changed by another program; stop `refine-ops mark` and start it again, so "
                    "that neither's work is lost"
                )
            if self.before is not None:
                if not os.path.exists(f"{self.manifest}.bak"):
                    storage.write(f"{self.manifest}.bak", self.before)
                self.before = None
            storage.write(self.manifest, manifest_bytes(items, self.manifest))
            self.identity, self.saved = _identity(self.manifest), latest


def _place(uri: str) -> str:
    """Where a file lies, by whichever links it was named."""
    return uri if storage.is_s3(uri) else os.path.realpath(uri)


def _identity(uri: str) -> str:
    return storage.identity(uri) if os.path.exists(uri) else ""


def _check_inside(region: Region, size: tuple[int, int]) -> None:
    width, height = size
    if region.box is not None and (region.box[2] > width or region.box[3] > height):
        raise ItemError("box.outside", f"box {list(region.box)} leaves the {width} x {height} image")
    if region.scribble is not None and not any(
        0 <= x <= width and 0 <= y <= height for stroke in region.scribble.strokes for x, y in stroke
    ):
        raise ItemError("scribble.outside", f"region {region.region_id}: no point of it lies on the image")
