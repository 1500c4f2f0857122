"""What the settings ask for where a source has Content Credentials, and what a refined file says of itself."""

import numpy as np

from refine_ops.config import ProvenanceSettings
from refine_ops.errors import ItemError
from refine_ops.image.formats.edit import Encoded
from refine_ops.image.formats.native import Samples
from refine_ops.image.formats.table import CODECS
from refine_ops.image.source import Source
from refine_ops.provenance import mark


def check(source: Source, settings: ProvenanceSettings) -> None:
    """Before anything is refined.

    Raises:
        ItemError: `provenance.refused` -- the source has Content Credentials, and those are to be left alone.
    """
    if settings.existing == "refuse" and source.file.credentials():
        raise ItemError(
            "provenance.refused",
            f"{source.name}: it has Content Credentials (C2PA), which no edit keeps valid; leave this item out, or set "
            "provenance.existing to 'strip'",
        )


def is_marked(source: Source, samples: Samples, settings: ProvenanceSettings) -> bool:
    """Whether a file with these samples (laid out as the source's) says in XMP that a model made a part of it: only
    where a part of it was made."""
    return settings.mark == "iptc" and not np.array_equal(source.native.samples, samples)


def marked(encoded: Encoded, name: str) -> Encoded:
    """The file with that statement in its XMP.

    Raises:
        ItemError: `provenance.bad_xmp`, `provenance.no_room`.
    """
    file = CODECS[encoded.format].parse(encoded.data, name)
    packet = file.xmp()
    fresh = mark.marked(packet, name)
    return encoded if fresh == packet else Encoded(file.with_xmp(fresh), encoded.format)
