"""What the settings ask for where a source has Content Credentials, and what a refined file says of itself."""

from collections.abc import Iterable
from typing import Final

import cv2
import numpy as np

from refine_ops.config import ImageLimits, ModelSettings, ProvenanceSettings
from refine_ops.errors import ItemError
from refine_ops.image.formats.edit import Encoded
from refine_ops.image.formats.native import Samples
from refine_ops.image.formats.table import CODECS, sniff
from refine_ops.image.source import Source, upright
from refine_ops.proof.allowed import Rules, allowed_change
from refine_ops.proof.stale import links_elsewhere
from refine_ops.proof.verify import VerifyError
from refine_ops.provenance import credentials, mark, sign
from refine_ops.records import Box, Mask, PastePolicy, Verification

_ANY_SIZE: Final = ImageLimits(max_pixels=1 << 40, max_bytes=1 << 40)
Regions = Iterable[tuple[Mask, PastePolicy]]
"""M of every region and what is pasted of it, as the proof takes them."""


def check(source: Source, settings: ProvenanceSettings) -> None:
    """Before anything is refined.

    Raises:
        ItemError: `provenance.refused` -- the source has Content Credentials, and those are to be left alone;
            `provenance.bad_credential` -- a credential that would be built upon is broken;
            `provenance.remote_credential` -- it is not in the file.
        JobError: files are to be signed, and nobody can.
    """
    if (settings.refuses or settings.resigns) and links_elsewhere(source.file.xmp()):
        raise ItemError(
            "provenance.remote_credential",
            f"{source.name}: its Content Credentials lie elsewhere (a link in its XMP), and nothing is fetched; get "
            "the file with its credentials embedded, or set provenance.existing to 'strip'",
        )
    held = bool(source.file.credentials())
    if settings.refuses and held:
        raise ItemError(
            "provenance.refused",
            f"{source.name}: it has Content Credentials (C2PA), which no edit keeps valid; leave this item out, or set "
            "provenance.existing to 'resign' or 'strip'",
        )
    if settings.signs_all or (settings.resigns and held):
        sign.open_signer()
    if settings.resigns and held:
        found = credentials.read(source.file)
        if not found.valid:
            raise ItemError(
                "provenance.bad_credential",
                f"{source.name}: its Content Credentials are broken ({', '.join(found.failures[:4])}): somebody "
                "changed the file after it was signed; get the original, or set provenance.existing to 'strip'",
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


def is_signed(source: Source, samples: Samples, settings: ProvenanceSettings) -> bool:
    """Whether a file with these samples gets a credential: in the place of the source's, or for what was made."""
    if settings.resigns and source.file.credentials():
        return True
    return settings.signs_all and not np.array_equal(source.native.samples, samples)


def signed(
    encoded: Encoded, source: Source, samples: Samples, regions: Regions, rules: Rules, model: ModelSettings
) -> bytes:
    """The proven file with a credential.

    Raises:
        ItemError: `provenance.not_signed`.
        JobError: the key gives no signature.
    """
    file = CODECS[encoded.format].parse(encoded.data, source.name)
    name, *adapters = sign.names([model.model, *model.adapters])
    made = sign.Made(name, tuple(adapters), changed_boxes(source, samples, regions, encoded.data, rules))
    return sign.signed(file, source.file, made, sign.open_signer())


def read_again(data: bytes, name: str, proof: Verification) -> Verification:
    """`proof`, if the library's own reader finds the signed file's credential valid.

    Raises:
        VerifyError: `verify.credential_invalid`.
    """
    kind = sniff(data)
    assert kind is not None, "it was proven"
    found = credentials.read(CODECS[kind].parse(data, name))
    if not found.valid:
        raise VerifyError(
            "verify.credential_invalid", f"{name}: the new credential is not valid: {', '.join(found.failures)}"
        )
    return proof


def changed_boxes(source: Source, samples: Samples, regions: Regions, written: bytes, rules: Rules) -> tuple[Box, ...]:
    """For every region in which a pixel changed, the box around all pixels that its edit may have changed; upright."""
    differs = upright(np.any(source.native.samples != samples, axis=2), source.native.orientation)
    boxes = []
    for region in regions:
        where = allowed_change([region], source.size, source.data, written, rules).where
        x, y, width, height = cv2.boundingRect(np.ascontiguousarray(where).view(np.uint8))
        if (differs & where)[y : y + height, x : x + width].any():
            boxes.append((x, y, x + width, y + height))
    return tuple(boxes)


def same_but_for_signature(one: bytes, other: bytes) -> bool:
    """Whether two signed files hold the same pixels and metadata: no two signatures of one file are equal, so a file
    that was written twice differs in its credential alone."""
    kinds = {sniff(one), sniff(other)}
    kind = kinds.pop()
    if kinds or kind is None:
        return False
    files = [CODECS[kind].parse(data, "output") for data in (one, other)]
    if files[0].kept_metadata() != files[1].kept_metadata():
        return False
    left, right = (file.decode(_ANY_SIZE).samples for file in files)
    return np.array_equal(left, right)
