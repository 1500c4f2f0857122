"""In which frame something was drawn: the upright image's, or that of the file as it is stored (EXIF orientation)."""

import numpy as np

from refine_ops.annotations.images import Header
from refine_ops.annotations.settings import Orientation
from refine_ops.annotations.shapes import Drawn, DrawnImage, MaskFile, Painted, bounds
from refine_ops.errors import ItemError
from refine_ops.records import Mask


def orientation_left(image: DrawnImage, header: Header, wanted: Orientation, upright_tool: bool) -> int:
    """What is to be applied to coordinates of this image: 1 where they are of the upright image already.

    A file's own size tells less than it seems: Label Studio's export to COCO writes the size as stored beside
    coordinates of the upright image. So only what lies outside of one of the two is believed.

    Raises:
        ItemError: `image.size`, `orientation.unknown`.
    """
    size, stored = header.size, header.stored
    if image.size is not None and image.size not in (size, stored):
        raise ItemError(
            "image.size",
            f"drawn on an image of {image.size[0]} x {image.size[1]} px, this one has {size[0]} x {size[1]}",
        )
    if header.orientation == 1 or wanted == "upright":
        return 1
    if wanted == "stored":
        return header.orientation
    if upright_tool:  # its sizes are those of what was drawn on
        return header.orientation if image.size == stored and size != stored else 1
    if image.size == size and size != stored:
        return 1
    reach = [] if image.shares else [_reach(drawn) for drawn in image.drawn]
    fits_upright = all(x <= size[0] + 1 and y <= size[1] + 1 for x, y in reach)
    fits_stored = all(x <= stored[0] + 1 and y <= stored[1] + 1 for x, y in reach)
    if fits_upright != fits_stored:
        return 1 if fits_upright else header.orientation
    raise ItemError(
        "orientation.unknown",
        f"the photo has EXIF orientation {header.orientation}, and nothing says whether it was turned upright when "
        "this was drawn; --orientation upright or stored says so",
    )


def _reach(drawn: Drawn) -> tuple[float, float]:
    shape = drawn.shape
    if isinstance(shape, Painted):
        return shape.left + shape.width, shape.top + shape.height
    return (0.0, 0.0) if isinstance(shape, MaskFile) else bounds(shape)[2:]


def in_frame(shape: Painted, frame: tuple[int, int], most: int) -> tuple[Mask, bool]:
    """Its pixels in the frame (width, height) that they were drawn in, and whether some lay outside of it.

    Raises:
        ItemError: `mask.size`, `mask.too_large`, and as its decoder does.
    """
    size = (shape.width, shape.height)
    if shape.whole and size != frame:
        raise ItemError("mask.size", f"the mask is {size[0]} x {size[1]}, the image {frame[0]} x {frame[1]} px")
    if size[0] * size[1] > most:
        raise ItemError("mask.too_large", f"a mask of {size[0]:,} x {size[1]:,} px is over max_pixels {most:,}")
    part = shape.decode()
    if shape.whole:
        return part, False
    mask = np.zeros((frame[1], frame[0]), np.bool_)
    x0, y0 = max(0, shape.left), max(0, shape.top)
    x1, y1 = min(frame[0], shape.left + size[0]), min(frame[1], shape.top + size[1])
    if x0 < x1 and y0 < y1:
        mask[y0:y1, x0:x1] = part[y0 - shape.top : y1 - shape.top, x0 - shape.left : x1 - shape.left]
    return mask, int(np.count_nonzero(mask)) < int(np.count_nonzero(part))
