"""A folder of photos becomes a manifest: whole, resumable after a kill, the same bytes on any number of processes."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image, ImageDraw

from flows.steps.detect import detect, explain
from refine_ops import storage
from refine_ops.data.synthetic import assets
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.errors import JobError, Unacceptable
from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.support.servers.site import free_port


def sign(words: str, blur_px: float = 0.0) -> np.ndarray:
    """A white sign on a grey wall; the font is one of those held out."""
    picture = Image.new("RGB", (320, 200), (120, 130, 140))
    pen = ImageDraw.Draw(picture)
    pen.rectangle((30, 50, 290, 140), fill=(240, 240, 235))
    font = assets.font(assets.ASSETS / "heldout/Tuffy-Bold.ttf", 40)
    pen.text((160, 95), words, font=font, fill=(20, 20, 30), anchor="mm")
    pixels = np.array(picture)
    if blur_px:
        pixels[40:150] = cv2.GaussianBlur(pixels, (0, 0), blur_px)[40:150]
    return pixels


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "shoes").mkdir()
    Image.fromarray(sign("MARLOWE")).save(folder / "clean.png")
    Image.fromarray(sign("VESPERA", 2.2)).save(folder / "shoes/soft.jpg", quality=95)
    Image.fromarray(np.full((120, 160, 3), 128, np.uint8)).save(folder / "nothing.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (folder / "notes.txt").write_text("no image")
    return folder


def config(photos: Path, out: Path, **settings: object) -> DetectRegionsConfig:
    return DetectRegionsConfig.model_validate({"source": str(photos), "out": str(out), "workers": 1, **settings})


def items(out: Path) -> list[Item]:
    found = list(read_items(str(out / "manifest.parquet")))
    assert all(isinstance(one, Item) for one in found), "the manifest is read as it is"
    return [one for one in found if isinstance(one, Item)]


@pytest.fixture(scope="module")
def detected(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detected")
    summary = detect(config(photos, out))
    assert (summary.images, summary.with_regions, summary.dead) == (4, 2, 1)
    return out


def test_the_manifest_is_an_ordinary_one(detected: Path, photos: Path) -> None:
    clean, soft = items(detected)
    assert (clean.item_id, soft.item_id) == ("clean", "shoes/soft")
    assert clean.image == str(photos / "clean.png")
    (region,) = clean.regions
    assert region.prompt == 'Refine the text "MARLOWE".'
    x0, y0, x1, y1 = region.box or (0, 0, 0, 0)
    assert 40 < x0 < 80 < 240 < x1 < 280, "the word, not the sign"
    assert 55 < y0 < 90 < 100 < y1 < 135


def test_what_cannot_be_read_is_in_the_dead_letter(detected: Path) -> None:
    (row,) = pq.read_table(detected / "dead_letter.parquet").to_pylist()
    assert row["item_id"] == "broken"
    assert row["reason"] == "image.truncated"
    assert "broken.jpg" in row["message"]


def test_every_detection_says_what_became_of_it(detected: Path) -> None:
    rows = pq.read_table(detected / "detections.parquet").to_pylist()
    by_item = {row["item_id"]: row for row in rows if row["fate"] == "kept"}
    assert by_item["clean"]["text"] == "MARLOWE"
    assert by_item["clean"]["region_id"] == "text-1"
    assert by_item["shoes/soft"]["edge_px"] > 2 * by_item["clean"]["edge_px"], "blur is seen"
    assert all(row["why"] for row in rows)
    with Image.open(detected / "contact_sheet.png") as sheet:
        assert sheet.width > 500


def test_again_does_nothing_anew_and_says_the_same(detected: Path, photos: Path) -> None:
    before = {p.name: p.read_bytes() for p in detected.rglob("*") if p.is_file()}
    written = (detected / "parts/part-000000.parquet").stat().st_mtime_ns
    detect(config(photos, detected))
    assert {p.name: p.read_bytes() for p in detected.rglob("*") if p.is_file()} == before
    assert (detected / "parts/part-000000.parquet").stat().st_mtime_ns == written


def test_other_settings_need_another_folder(detected: Path, photos: Path) -> None:
    with pytest.raises(JobError, match=r"holds what other settings found: config\.only"):
        detect(config(photos, detected, only="damaged"))


def test_only_damaged_leaves_the_clean_sign_alone(photos: Path, tmp_path: Path) -> None:
    detect(config(photos, tmp_path / "out", only="damaged"))
    assert [one.item_id for one in items(tmp_path / "out")] == ["shoes/soft"]
    fates = {r["item_id"]: r for r in pq.read_table(tmp_path / "out/detections.parquet").to_pylist()}
    assert fates["clean"]["fate"] == "sound"
    assert "damaged with probability" in fates["clean"]["why"]


def test_explain_tells_of_one_image_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    told = explain(config(photos, tmp_path / "none"), "shoes/soft")
    assert told[0] == "shoes/soft: 320x200 px, 1 found, 1 region"
    assert "kept (blurred: edges" in told[1]
    assert not (tmp_path / "none").exists()
    with pytest.raises(JobError, match="'gone' is none of the 4 images"):
        explain(config(photos, tmp_path / "none"), "gone")


def test_a_list_and_patterns_choose_images(photos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text(f"item_id,image,category\n7,{photos}/clean.png,signs\n8,{photos}/gone.png,\n9,http://x/y.png,\n")
    summary = detect(config(listed, tmp_path / "out"))
    assert summary.dead_by_reason == {"file.missing": 1, "uri.scheme": 1}
    (item,) = items(tmp_path / "out")
    assert (item.item_id, item.category) == ("7", "signs")
    assert detect(config(photos, tmp_path / "some", include=("shoes/*",))).images == 1


def test_what_can_be_refused_is_refused_before_anything_is_looked_at(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for settings, said in (
        ({"rules": {"face": {}}}, "'face' is found by none"),
        ({"rules": {"text": {"reference": str(photos / "gone.png")}}}, "no such file"),
        ({"include": ("hats/*",)}, "holds no image that include and exclude leave"),
    ):
        with pytest.raises(JobError, match=said):
            detect(config(photos, out, **settings))
    assert not (out / "parts").exists()


def test_a_folder_without_one_readable_image_fails(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(Unacceptable, match="none of the 1 images could be read"):
        detect(config(photos, tmp_path / "out", include=("broken.jpg",)))


@pytest.mark.processes
def test_from_and_to_s3_it_is_the_same(photos: Path, detected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        boto3.client("s3").create_bucket(Bucket="shop")
        for path in photos.rglob("*.*"):
            storage.write(f"s3://shop/photos/{path.relative_to(photos)}", path.read_bytes())
        settings = {"source": "s3://shop/photos", "out": "s3://shop/found", "workers": 1}
        summary = detect(DetectRegionsConfig.model_validate(settings))
        assert (summary.images, summary.with_regions, summary.dead) == (4, 2, 1)
        there = pq.read_table(io.BytesIO(storage.read(summary.manifest))).to_pylist()
        here = pq.read_table(detected / "manifest.parquet").to_pylist()
        assert [row["regions"] for row in there] == [row["regions"] for row in here]
        assert [row["image"] for row in there] == ["s3://shop/photos/clean.png", "s3://shop/photos/shoes/soft.jpg"]
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.processes
def test_killed_and_resumed_it_is_the_same(photos: Path, detected: Path, tmp_path: Path) -> None:
    """Last run: 2026-11-27, the commit that added it, `pytest -m slow tests/detect/regions`, beside other work: passed
    in 29 s."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "flows.cli.main", "detect", str(photos), "--out", str(out), "--workers", "2"]
    command += ["--set", "part_images=1"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((out / "parts").glob("part-*.parquet")) and time.monotonic() < deadline:
        assert started.poll() is None, "it is over before it could be killed"
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.communicate()
    there = {p.name: p.read_bytes() for p in (out / "parts").glob("part-*.parquet")}
    assert 0 < len(there) < 4
    assert not (out / "manifest.parquet").exists(), "who sees it sees all of it"
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert {name: (out / "parts" / name).read_bytes() for name in there} == there
    rows = [pq.read_table(folder / "manifest.parquet").to_pylist() for folder in (out, detected)]
    assert rows[0] == rows[1]
    assert storage.exists(str(out / "contact_sheet.png"))
