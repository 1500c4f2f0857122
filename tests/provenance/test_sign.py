"""A signed source stays signed: the result's credential is the operator's, its parent is the source's; both hold."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import refine_ops
from refine_ops.chain import Finished, Judged, refine_image
from refine_ops.config import ModelSettings, ProvenanceSettings, RefineSettings, WriteSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.table import CODECS, sniff
from refine_ops.job.outcome import Attempt
from refine_ops.job.rank.publish import Publisher
from refine_ops.job.run_folder import RunFolder
from refine_ops.opened import open_item
from refine_ops.proof.metadata import not_kept
from refine_ops.provenance.policy import same_but_for_signature
from refine_ops.provenance.sign import open_signer
from refine_ops.records import Box, Item, Region
from tests.image.formats.test_credentials import STRANGER, app11
from tests.image.formats.test_tiled_tiff import tiled
from tests.support.certificates import Identity, camera_signed, make_identity
from tests.support.chain import jpeg_allowance, near
from tests.support.made_files import exif_block, jpeg, picture, png, tiff, webp, with_chunks, with_segments
from tests.support.pixels import KnownRefiner

RGB = picture(np.random.default_rng(5), 128, 96)
BOXES: list[Box] = [(30, 20, 54, 43), (70, 60, 86, 70)]
ITEM = Item(
    "a",
    "photos/a.img",
    "a.img",
    tuple(Region(f"r{i}", "Refine the secret plan", box=box) for i, box in enumerate(BOXES)),
    row=0,
)
RESIGN = RefineSettings(provenance=ProvenanceSettings(existing="resign"))
SIGN = RefineSettings(
    provenance=ProvenanceSettings(mark="c2pa"),
    model=ModelSettings(model="/models/private/qwen", adapters=("s3://team/adapters/logo-7",)),
)
PLAIN: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: with_segments(
        jpeg(RGB, "420"), (0xE1, b"Exif\0\0" + exif_block(1)), *app11(STRANGER, 3), (0xFE, b"kept"), trailing=b"map"
    ),
    "jpeg, turned": lambda: with_segments(jpeg(RGB, "444"), (0xE1, b"Exif\0\0" + exif_block(6))),
    "png": lambda: with_chunks(png(RGB), (b"tEXt", b"Title\0kept"), (b"eXIf", exif_block(1))),
    "png, 16 bits": lambda: png(RGB.astype(np.uint16) * 257),
    "webp": lambda: webp(RGB, True, exif=exif_block(1)),
    "webp, bare": lambda: webp(RGB, True),
    "tiff": lambda: tiff(RGB, "zlib"),
    "big-endian tiff": lambda: tiff(RGB, "zlib", big_endian=True, orientation=3),
    "tiled tiff": lambda: tiled(RGB, compression="zlib", predictor=True),
}
OFFLINE = {"version": 1, "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}


def refined(data: bytes, settings: RefineSettings) -> Finished:
    return refine_image(ITEM, {ITEM.image: data}, KnownRefiner(), settings)


def reading(data: bytes) -> dict:
    """What the library's own reader says of a file, every manifest in it, valid or not."""
    with c2pa.Reader(f"image/{sniff(data)}", BytesIO(data), context=c2pa.Context.from_dict(OFFLINE)) as reader:
        return {"state": reader.get_validation_state(), **json.loads(reader.json())}


def actions(manifest: dict) -> list[dict]:
    (found,) = [a for a in manifest["assertions"] if a["label"].startswith("c2pa.actions")]
    return found["data"]["actions"]


@pytest.mark.parametrize("kind", PLAIN)
def test_a_signed_source_comes_out_signed_and_both_credentials_hold(
    kind: str, camera: Identity, signing: Identity
) -> None:
    source = camera_signed(PLAIN[kind](), camera)
    done = refined(source, RESIGN)
    found = reading(done.data)
    assert found["state"] == "Valid"
    assert len(found["manifests"]) == 2
    active = found["manifests"][found["active_manifest"]]
    (parent,) = active["ingredients"]
    assert parent["relationship"] == "parentOf"
    assert found["manifests"][parent["active_manifest"]]["signature_info"]["common_name"] == "Test Camera"
    assert active["signature_info"]["common_name"] == "Test Signer"
    assert [a["action"] for a in actions(active)] == ["c2pa.opened", "c2pa.edited"]
    assert (done.verification.signed, done.verification.credentials_removed) == (True, False)
    assert done.verification.metadata_equal
    assert not_kept(source, done.data) == ()
    assert PLAIN[kind]().count(b"panorama") == done.data.count(b"panorama")


@pytest.mark.parametrize("kind", PLAIN)
def test_signing_changes_no_pixel_and_no_other_metadata(kind: str, camera: Identity, signing: Identity) -> None:
    source = camera_signed(PLAIN[kind](), camera)
    signed, stripped = refined(source, RESIGN).data, refined(source, RefineSettings()).data
    files = [CODECS[sniff(data)].parse(data, "x") for data in (signed, stripped)]
    limits = RefineSettings().limits
    assert np.array_equal(*(file.decode(limits).samples for file in files))
    assert [e for e in files[0].metadata() if e not in files[0].credentials()] == files[1].metadata()
    assert same_but_for_signature(signed, refined(source, RESIGN).data)
    assert not same_but_for_signature(signed, refined(camera_signed(png(RGB // 2), camera), RESIGN).data)


@pytest.mark.parametrize("kind", PLAIN)
def test_what_was_done_is_said_and_nobodys_paths_or_prompts_are(kind: str, signing: Identity) -> None:
    done = refined(PLAIN[kind](), SIGN)
    found = reading(done.data)
    assert found["state"] == "Valid"
    opened, edited = actions(found["manifests"][found["active_manifest"]])
    assert len(opened["parameters"]["ingredients"]) == 1
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert edited["softwareAgent"] == {"name": "refine-ops", "version": refine_ops.__version__}
    assert edited["parameters"]["org.refine-ops.model"] == "qwen"
    assert edited["parameters"]["org.refine-ops.adapters"] == ["logo-7"]
    for secret in (b"private", b"s3://", b"secret plan", b"photos/"):
        assert secret not in done.data
    assert len(edited["changes"]) == 2


def boxes_said(data: bytes) -> list[Box]:
    found = reading(data)
    _, edited = actions(found["manifests"][found["active_manifest"]])
    shapes = [change["region"][0]["shape"] for change in edited["changes"]]
    corners = [(s["origin"]["x"], s["origin"]["y"], s["width"], s["height"]) for s in shapes]
    return [tuple(int(v) for v in (x, y, x + w, y + h)) for x, y, w, h in corners]


def test_the_boxes_hold_every_changed_pixel_and_reach_no_further_than_the_allowance(signing: Identity) -> None:
    for data, reach in ((png(RGB), None), (jpeg(RGB, "420"), (16, 16))):
        output = refined(data, SIGN).data
        before, after = (CODECS[sniff(d)].parse(d, "x").decode(SIGN.limits).samples for d in (data, output))
        allowed = near(BOXES, 128, 96)
        allowed = jpeg_allowance(allowed, reach, "edge") if reach else allowed
        said = np.zeros_like(allowed)
        for x0, y0, x1, y1 in boxes_said(output):
            said[y0:y1, x0:x1] = True
        assert not ((before != after).any(axis=2) & ~said).any()
        assert np.array_equal(said, allowed)


def test_a_refined_file_is_refined_again_and_all_three_credentials_hold(camera: Identity, signing: Identity) -> None:
    once = refined(camera_signed(PLAIN["jpeg"](), camera), RESIGN).data
    twice = reading(refined(once, RESIGN).data)
    assert (twice["state"], len(twice["manifests"])) == ("Valid", 3)


def test_a_converted_file_is_signed_in_its_new_format(camera: Identity, signing: Identity) -> None:
    for target in ("png", "webp-lossless"):
        settings = RESIGN.model_copy(update={"write": WriteSettings(output_format=target)})
        found = reading(refined(camera_signed(PLAIN["jpeg"](), camera), settings).data)
        assert (found["state"], len(found["manifests"])) == ("Valid", 2)


@pytest.mark.parametrize("settings", [RESIGN, RefineSettings()])
def test_a_pointer_to_the_old_credential_goes_with_it(
    settings: RefineSettings, camera: Identity, signing: Identity
) -> None:
    pointer = b'<rdf:Description rdf:about="" dcterms:provenance="self#jumbf=c2pa/urn:1"/>'
    plain = with_segments(jpeg(RGB, "420"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + pointer))
    done = refined(camera_signed(plain, camera), settings)
    assert b"dcterms:provenance" not in done.data
    assert done.verification.metadata_equal
    assert settings is not RESIGN or reading(done.data)["state"] == "Valid"


def test_resign_leaves_unsigned_sources_unsigned(signing: Identity) -> None:
    done = refined(PLAIN["png"](), RESIGN)
    assert not done.verification.signed
    assert done.data == refined(PLAIN["png"](), RefineSettings()).data


def test_a_source_that_was_changed_after_it_was_signed_is_not_built_upon(camera: Identity, signing: Identity) -> None:
    data = bytearray(camera_signed(PLAIN["jpeg"](), camera))
    data[data.rindex(b"kept")] ^= 1
    with pytest.raises(ItemError, match=r"assertion\.dataHash\.mismatch.*'strip'") as broken:
        open_item(ITEM, {ITEM.image: bytes(data)}, RESIGN)
    assert broken.value.reason == "provenance.bad_credential"
    assert refined(bytes(data), RefineSettings()).verification.credentials_removed


def test_a_new_credential_never_hides_an_old_one() -> None:
    with pytest.raises(ValueError, match="would hide an earlier credential"):
        ProvenanceSettings(existing="strip", mark="c2pa")
    assert ProvenanceSettings(mark="c2pa").resigns
    assert not ProvenanceSettings(existing="refuse", mark="c2pa").resigns
    assert not ProvenanceSettings().resigns


def test_an_output_that_a_dead_rank_left_stays_and_is_the_record(
    tmp_path: Path, camera: Identity, signing: Identity
) -> None:
    source = open_item(ITEM, {ITEM.image: camera_signed(PLAIN["png"](), camera)}, RESIGN).source
    publisher, attempt = Publisher(RunFolder(str(tmp_path), "f"), "none"), Attempt(ITEM, "request", "f")

    def published(done: Finished) -> str:
        return publisher.publish(attempt, Judged(done, None, done.regions), {}, source).output_sha256

    first, second = (refined(camera_signed(PLAIN["png"](), camera), RESIGN) for _ in range(2))
    second = replace(second, data=refined(camera_signed(PLAIN["png"](), camera), RESIGN).data)
    assert first.data != second.data
    assert published(first) == published(second)
    other = replace(second, data=refined(camera_signed(png(RGB // 2), camera), RESIGN).data)
    with pytest.raises(ItemError, match="other bytes"):
        published(other)


# -- who signs


def test_without_a_signer_the_job_stops_and_says_what_to_set(
    camera: Identity, signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {ITEM.image: camera_signed(PLAIN["png"](), camera)}
    for name in ("REFINE_C2PA_CERTIFICATE", "REFINE_C2PA_KEY"):
        with monkeypatch.context() as without:
            without.delenv(name)
            open_signer.cache_clear()
            with pytest.raises(JobError, match="REFINE_C2PA_CERTIFICATE"):
                open_item(ITEM, data, RESIGN)
            assert open_item(ITEM, data, RefineSettings())


def test_what_is_wrong_with_a_certificate_or_key_is_said_without_the_key(
    tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired, other = make_identity(tmp_path / "old", expired=True), make_identity(tmp_path / "other")
    early = make_identity(tmp_path / "early", from_days=1)
    odd = make_identity(tmp_path / "odd", curve=ec.SECP521R1())
    (tmp_path / "no.pem").write_text("MIGHAgEAMBMGByqGSM49\n")
    cases = [
        (expired.chain, expired.key, "expired on .* renew it"),
        (early.chain, early.key, "valid only from"),
        (signing.chain, other.key, "not the key of the certificate"),
        (odd.chain, odd.key, "ES256 and ES384"),
        (tmp_path / "none.pem", signing.key, "FileNotFoundError"),
        (tmp_path / "no.pem", signing.key, "holds no PEM certificates"),
        (signing.chain, tmp_path / "no.pem", "holds no PEM private key"),
        (signing.chain, signing.chain, "holds no PEM private key"),
    ]
    for chain, key, message in cases:
        monkeypatch.setenv("REFINE_C2PA_CERTIFICATE", str(chain))
        monkeypatch.setenv("REFINE_C2PA_KEY", str(key))
        open_signer.cache_clear()
        with pytest.raises(JobError, match=message) as told:
            open_signer()
        assert "MIGH" not in str(told.value)
        assert told.value.__cause__ is None or "MIGH" not in str(told.value.__cause__)


KEY_SERVICE = """
import os
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
calls = []
def sign(data):
    calls.append(len(data))
    if len(calls) <= int(os.environ.get("KEY_SERVICE_FAILS", 0)):
        raise TimeoutError("busy")
    with open(os.environ["KEY_SERVICE_KEY"], "rb") as file:
        key = serialization.load_pem_private_key(file.read(), None)
    return key.sign(data, ec.ECDSA(hashes.SHA256()))
"""


@pytest.fixture
def key_service(tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"key_service_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(KEY_SERVICE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("KEY_SERVICE_KEY", str(signing.key))
    monkeypatch.delenv("REFINE_C2PA_KEY")
    monkeypatch.setenv("REFINE_C2PA_SIGNER", f"{name}:sign")
    monkeypatch.setattr("refine_ops.provenance.sign._WAIT_S", 0.01)
    open_signer.cache_clear()
    return name


@pytest.mark.parametrize("busy", [0, 2])
def test_a_key_service_signs_that_answers_in_der_and_may_be_busy(
    busy: int, key_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_SERVICE_FAILS", str(busy))
    assert reading(refined(PLAIN["webp"](), SIGN).data)["state"] == "Valid"


def test_a_key_service_that_stays_away_stops_the_job_not_the_item(
    key_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_SERVICE_FAILS", "100")
    with pytest.raises(JobError, match="TimeoutError"):
        refined(PLAIN["webp"](), SIGN)
    monkeypatch.setenv("REFINE_C2PA_SIGNER", "no.such.module:sign")
    open_signer.cache_clear()
    with pytest.raises(JobError, match="write module:function"):
        open_signer()


def test_a_signature_by_another_key_is_never_published(
    key_service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_SERVICE_KEY", str(make_identity(tmp_path / "stranger").key))
    with pytest.raises(ItemError) as caught:
        refined(PLAIN["jpeg"](), SIGN)
    assert caught.value.reason in ("verify.credential_invalid", "provenance.not_signed")


def test_a_certificate_on_p384_signs_too(tmp_path: Path, signing: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    larger = make_identity(tmp_path / "larger", curve=ec.SECP384R1())
    monkeypatch.setenv("REFINE_C2PA_CERTIFICATE", str(larger.chain))
    monkeypatch.setenv("REFINE_C2PA_KEY", str(larger.key))
    open_signer.cache_clear()
    found = reading(refined(PLAIN["png"](), SIGN).data)
    assert found["state"] == "Valid"
    assert found["manifests"][found["active_manifest"]]["signature_info"]["alg"] == "Es384"


def test_a_signer_shows_nothing_of_itself(signing: Identity) -> None:
    shown = repr(open_signer())
    assert all(line.decode() not in shown for line in signing.key_lines)
