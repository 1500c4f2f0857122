"""Another format on request: upright, with the profile, EXIF and XMP carried over, and never a bit less."""

import numpy as np

from refine_ops.errors import ItemError
from refine_ops.image.formats import exif
from refine_ops.image.formats.edit import NewFile
from refine_ops.image.formats.native import Format, Samples
from refine_ops.image.formats.previews.xmp import without_stale
from refine_ops.image.formats.table import CODECS
from refine_ops.image.source import Source, upright


def encode(source: Source, samples: Samples, target: Format) -> bytes:
    """`samples` (laid out as the source's) as a file of format `target`, upright, orientation tag set to 1.

    Raises:
        ItemError: `image.unsupported` where the target cannot hold the samples exactly (CMYK; 16 bits or a grey
            profile in WebP; sides over 16,383 px in WebP).
    """
    native, block, packet = source.native, source.file.exif(), source.file.xmp()
    if native.model == "cmyk":
        raise ItemError("image.unsupported", f"{source.name}: {target} holds no CMYK; use output_format: source")
    new = NewFile(
        samples=np.ascontiguousarray(upright(samples, native.orientation)),
        model=native.model,
        alpha=native.alpha,
        icc=native.icc,
        exif=exif.with_orientation_1(exif.without_thumbnail(block)) if block else None,
        xmp=without_stale(packet) if packet else packet,
    )
    return CODECS[target].create(new, source.name)
