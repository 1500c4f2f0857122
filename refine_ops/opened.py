"""An item's inputs, from bytes to pixels: checked against each other, before the chain begins."""

from collections.abc import Mapping
from dataclasses import dataclass

from refine_ops.config import ImageLimits, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image import read, write
from refine_ops.image.formats.table import header_pixels
from refine_ops.image.place import Marking
from refine_ops.image.reference import decode_reference
from refine_ops.image.region import region_mask
from refine_ops.image.source import Source
from refine_ops.provenance import policy
from refine_ops.records import Item, U8Image

_BYTES_PER_PIXEL = 24
"""What one item holds per pixel while in flight: samples, edited samples, sRGB view, masks, and slack for 16 bits."""


def memory_needed(item: Item, inputs: Mapping[str, bytes], limits: ImageLimits) -> int:
    """Bytes an item will hold in flight, from its files' headers alone; larger images than allowed are not decoded."""
    pixels = min(header_pixels(inputs[item.image]), limits.max_pixels)
    references = min(sum(header_pixels(inputs[uri]) for uri in _references(item)), limits.max_pixels)
    return pixels * _BYTES_PER_PIXEL + references * 3 + sum(map(len, inputs.values()))


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An item's inputs, decoded and found to fit each other: the source, its regions' markings, references by URI."""

    source: Source
    markings: tuple[Marking, ...]
    references: dict[str, U8Image]


def open_item(item: Item, inputs: Mapping[str, bytes], settings: RefineSettings) -> Opened:
    """Decode everything an item names.

    Args:
        inputs: Bytes of the image, the masks and the references by URI.

    Raises:
        ItemError: an input is not what it should be; `region.below_mcu` where `confine: region` leaves a JPEG's region
            nothing that may change; `reference.too_large` where an item's references together have
            more pixels than one image may have.
    """
    limits, uris = settings.limits, _references(item)
    source = read.decode(inputs[item.image], name=item.image, limits=limits, matte=settings.write.matte)
    write.check(source, settings.write)
    policy.check(source, settings.provenance)
    markings = []
    for region in item.regions:
        mask = region_mask(region, source.size, inputs[region.mask] if region.mask else None, limits)
        markings.append(Marking.of(source, mask, region.paste, settings.paste))
    pixels = sum(header_pixels(inputs[uri]) for uri in uris)
    if pixels > limits.max_pixels:
        raise ItemError(
            "reference.too_large",
            f"{item.item_id}: its {len(uris)} references have {pixels:,} pixels together, over max_pixels "
            f"{limits.max_pixels:,}; make them smaller, the model sees them at its own size",
        )
    return Opened(
        source, tuple(markings), {uri: decode_reference(inputs[uri], name=uri, limits=limits) for uri in uris}
    )


def _references(item: Item) -> list[str]:
    return sorted({uri for r in item.regions for uri in r.all_references})
