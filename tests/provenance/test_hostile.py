"""Credentials that somebody made to break readers are bad input: the item is dead, or they are taken out; no more."""

import random
import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.config import ProvenanceSettings, RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image.formats.table import CODECS, sniff
from refine_ops.opened import open_item
from refine_ops.provenance.credentials import check_boxes, read, store
from refine_ops.records import Item, Region
from tests.image.formats.test_credentials import MANIFEST_STORE, app11, jumbf
from tests.support.certificates import Identity, camera_signed
from tests.support.chain import refine
from tests.support.made_files import jpeg, picture, png, with_chunks, with_segments

RGB = picture(np.random.default_rng(5), 80, 64)
BOX = (30, 20, 44, 33)
ITEM = Item("a", "a.img", "a.img", (Region("r", "Refine it", box=BOX),), row=0)
RESIGN = RefineSettings(provenance=ProvenanceSettings(existing="resign"))
HEADER = jumbf(MANIFEST_STORE, b"c2pa", b"")[8:]


def box(kind: bytes, content: bytes, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


def nested(depth: int) -> bytes:
    sizes = range(8 * depth + len(HEADER), len(HEADER), -8)
    return b"".join(struct.pack(">I4s", size, b"jumb") for size in sizes) + HEADER


HOSTILE = {
    "empty": b"",
    "cut in a header": jumbf(MANIFEST_STORE, b"c2pa", b"claim")[:20],
    "longer than its file says": box(b"jumb", HEADER, size=1 << 30),
    "shorter than a header": box(b"jumb", box(b"cbor", b"", size=3)),
    "64-bit length over everything": struct.pack(">I4sQ", 1, b"jumb", (1 << 64) - 1) + HEADER,
    "64-bit length of nothing": struct.pack(">I4sQ", 1, b"jumb", 0) + HEADER,
    "boxes in boxes": nested(100_000),
    "very many boxes": box(b"jumb", HEADER + box(b"free", b"") * 200_000),
    "100 MB": box(b"jumb", HEADER + box(b"bidb", bytes(100 << 20))),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_store_is_bad_input_where_it_would_be_read_and_gone_where_it_is_stripped(
    kind: str, signing: Identity
) -> None:
    data = with_chunks(png(RGB), (b"caBX", HOSTILE[kind]))
    started = time.process_time()
    with pytest.raises(ItemError, match="get the file anew") as refused:
        open_item(ITEM, {"a.img": data}, RESIGN)
    assert refused.value.reason == "provenance.bad_credential"
    done = refine(data, [BOX])
    assert done.proof.credentials_removed
    assert b"caBX" not in done.encoded.data
    assert time.process_time() - started < 10


def test_a_store_over_thousands_of_segments_costs_no_more_than_its_bytes(signing: Identity) -> None:
    """100 MB in a JPEG, and 20,000 segments of a few bytes each."""
    for content, piece in ((100 << 20, 65_000), (400_000, 20)):
        store_box = box(b"jumb", HEADER + box(b"bidb", bytes(content)))
        data = with_segments(jpeg(RGB, "420"), *app11(store_box, 7, piece))
        started = time.process_time()
        assert refine(data, [BOX]).proof.credentials_removed
        if content > 1 << 25:
            with pytest.raises(ItemError, match="over"):
                open_item(ITEM, {"a.img": data}, RESIGN)
        assert time.process_time() - started < 20


def test_boxes_as_deep_as_real_ones_pass(camera: Identity) -> None:
    check_boxes(nested(8), "x")
    for data in (png(RGB), jpeg(RGB, "420")):
        signed = camera_signed(data, camera)
        file = CODECS[sniff(signed)].parse(signed, "x")
        check_boxes(store(file), "x")
        assert read(file).valid


def test_a_store_cut_over_segments_is_put_together_again() -> None:
    whole = jumbf(MANIFEST_STORE, b"c2pa", bytes(random.Random(1).randbytes(5000)))
    data = with_segments(jpeg(RGB, "420"), *app11(whole, 7))
    assert store(CODECS["jpeg"].parse(data, "x")) == whole


@pytest.fixture(scope="module")
def signed_files(camera: Identity) -> list[bytes]:
    return [camera_signed(data, camera) for data in (png(RGB), jpeg(RGB, "420"))]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_anywhere_in_a_credential_is_found_or_harmless(signed_files: list[bytes], data: st.DataObject) -> None:
    """Whatever is changed or cut, the library reads it, or the item is refused: no other error, no crash."""
    whole = data.draw(st.sampled_from(signed_files))
    file = CODECS[sniff(whole)].parse(whole, "x")
    held = bytearray(store(file))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(held) - 1))
        held[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del held[data.draw(st.integers(0, len(held) - 1)) :]
    torn = with_chunks(png(RGB), (b"caBX", bytes(held)))
    try:
        state = read(CODECS["png"].parse(torn, "x")).state
    except ItemError as error:
        state = error.reason
    assert state in ("Valid", "Trusted", "Invalid", "provenance.bad_credential")
