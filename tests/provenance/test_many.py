"""500 files of every format under every policy: pixels, credentials and a scan of the bytes."""

from io import BytesIO

import c2pa
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refine_ops.chain import refine_image
from refine_ops.config import ProvenanceSettings, RefineSettings
from refine_ops.image.formats.table import sniff
from refine_ops.records import Item, Region
from tests.support.certificates import Identity, camera_signed
from tests.support.chain import jpeg_allowance, near
from tests.support.made_files import MCU, jpeg, opencv_samples, picture, pillow_samples, png, tiff, webp
from tests.support.pixels import KnownRefiner

OFFLINE = {"version": 1, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
_KINDS = ["444", "422", "420", "progressive", "png", "png16", "webp", "tiff", "tiff-be"]


def made(kind: str, rgb: np.ndarray) -> bytes:
    if kind in MCU or kind == "progressive":
        return jpeg(rgb, "420" if kind == "progressive" else kind, progressive=kind == "progressive")
    if kind.startswith("tiff"):
        return tiff(rgb, "zlib", big_endian=kind == "tiff-be")
    if kind == "webp":
        return webp(rgb, True)
    return png(rgb.astype(np.uint16) * 257 if kind == "png16" else rgb)


@pytest.mark.long
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_policy_keeps_every_pixel_and_leaves_no_broken_credential(
    camera: Identity, signing: Identity, data: st.DataObject
) -> None:
    draw = data.draw
    width, height = draw(st.integers(40, 140)), draw(st.integers(40, 110))
    kind, is_signed = draw(st.sampled_from(_KINDS)), draw(st.booleans())
    existing = draw(st.sampled_from(["resign", "strip"]))
    mark = draw(st.sampled_from(["none", "iptc", *(["c2pa"] if existing == "resign" else [])]))
    x, y = draw(st.integers(0, width - 20)), draw(st.integers(0, height - 20))
    box = (x, y, x + draw(st.integers(8, 20)), y + draw(st.integers(8, 20)))
    source = made(kind, picture(np.random.default_rng(draw(st.integers(0, 1 << 30))), width, height))
    source = camera_signed(source, camera) if is_signed else source

    item = Item("a", "a", "a", (Region("r", "Refine it", box=box),), row=0)
    asked = RefineSettings(provenance=ProvenanceSettings(existing=existing, mark=mark))
    done = refine_image(item, {"a": source}, KnownRefiner(), asked)

    decoder = pillow_samples if kind == "webp" else opencv_samples
    allowed = near([box], width, height)
    if sniff(source) == "jpeg":
        allowed = jpeg_allowance(allowed, MCU["420" if kind == "progressive" else kind], "edge")
    differs = (decoder(source) != decoder(done.data)).any(axis=2)
    assert differs.any()
    assert not (differs & ~allowed).any()
    signed = mark == "c2pa" or (is_signed and existing == "resign")
    assert done.verification.signed == signed
    if signed:
        with c2pa.Reader(
            f"image/{sniff(done.data)}", BytesIO(done.data), context=c2pa.Context.from_dict(OFFLINE)
        ) as reader:
            assert reader.get_validation_state() == "Valid"
        assert done.data.count(b"test camera") >= int(is_signed)
    else:
        for trace in (b"c2pa", b"jumb", b"caBX", b"C2PA", b"test camera"):
            assert trace not in done.data
    assert (b"compositeWithTrainedAlgorithmicMedia" in done.data) == (mark != "none" or signed)
