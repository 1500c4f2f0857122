"""`refine-ops image` as its user types it: one picture, one line, one result."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from tests.support.typed import typed

from .test_refine_batch import cli, png

pytestmark = pytest.mark.processes

ALONE = """
import sys
started = []
def heard(event, arguments):
    started_one = event in ("subprocess.Popen", "os.posix_spawn", "os.exec")
    if started_one and any(word in str(arguments) for word in ("python", "prefect")):
        started.append(str(arguments))
    if event == "os.fork":
        started.append(event)
sys.addaudithook(heard)
from flows.cli.main import main
try:
    main()
finally:
    started += ["prefect"] * ("prefect" in sys.modules)
    print("started:", started, file=sys.stderr)
"""
"""The command line, which says at its end what it started beside itself."""
QUICK = ["--publish", "all", "--set", "refine.model.steps=1"]


@pytest.fixture
def site(tmp_path: Path, photo: np.ndarray) -> Path:
    small = np.ascontiguousarray(photo[40:200, 150:330])
    Image.fromarray(small).save(tmp_path / "photo.jpg", quality=92)
    (tmp_path / "logo.png").write_bytes(png(small[:60, :80]))
    (tmp_path / "mask.png").write_bytes(png(np.pad(np.full((40, 50), 255, np.uint8), ((50, 70), (60, 70)))))
    return tmp_path


@pytest.mark.processes
def test_your_own_picture_in_one_line(site: Path) -> None:
    photo, out = site / "photo.jpg", site / "refined.jpg"
    before, source = photo.read_bytes(), np.asarray(Image.open(photo))
    arguments = [
        "image", str(photo), "--box", "60,50,110,90", "--reference", str(site / "logo.png"), "-o", str(out), "--show",
        "--publish", "all",
    ]  # fmt: skip
    environment = {**os.environ, "PREFECT_HOME": str(site), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert "started: []" in result.stderr, "no server, no process group, no Prefect"
    assert "2,000 px marked" in result.stdout
    assert "0 outside the allowed change" in result.stdout
    assert str(out) in result.stdout
    assert "It does not read prompts" in result.stderr
    refined = np.asarray(Image.open(out))
    assert np.array_equal(refined[:, 130:], source[:, 130:])
    assert not np.array_equal(refined, source)
    assert photo.read_bytes() == before
    assert (site / "refined.before-after.png").is_file()


@pytest.mark.processes
def test_masks_scribbles_seeds_and_other_formats(site: Path) -> None:
    photo = str(site / "photo.jpg")
    masked = cli("image", photo, "--mask", str(site / "mask.png"), "--seed", "7", *QUICK, home=site)
    assert masked.returncode == 0, masked.stderr
    assert "2,000 px marked" in masked.stdout
    assert "seed 7" in masked.stdout
    assert (site / "photo.refined.jpg").is_file()
    drawn = cli(
        "image", photo, "--scribble", "60,60 110,60", "--scribble", "60,80 110,80", "--width", "9", "-o",
        str(site / "out.png"), "--prompt", "Refine the face", *QUICK, home=site,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    with Image.open(site / "out.png") as image:
        assert image.format == "PNG"
    assert 900 < int(re.search(r"([\d,]+) px marked", drawn.stdout)[1].replace(",", "")) < 1300


@pytest.mark.processes
def test_a_phones_picture_becomes_a_png(site: Path) -> None:
    pillow_heif.from_pillow(Image.open(site / "photo.jpg")).save(site / "phone.heic", quality=90)
    said = typed("image", str(site / "phone.heic"), "--box", "60,50,110,90", *QUICK)
    assert said.returncode == 0, said.stderr
    source = np.asarray(pillow_heif.open_heif(site / "phone.heic").to_pillow())
    with Image.open(site / "phone.refined.png") as image:
        refined = np.asarray(image)
    assert np.array_equal(refined[:, 130:], source[:, 130:])
    assert not np.array_equal(refined, source)


@pytest.mark.processes
def test_what_is_no_better_is_not_written_and_it_is_said_why(site: Path) -> None:
    photo, out = str(site / "photo.jpg"), site / "refined.jpg"
    held = cli("image", photo, "--box", "60,50,110,90", "-o", str(out), "--show", *QUICK[2:], home=site)
    assert held.returncode == 1
    assert not out.exists()
    assert "held: " in held.stdout
    assert "Nothing was written, the source stands" in held.stderr
    assert "--publish all writes it all the same" in held.stderr
    assert (site / "refined.before-after.png").is_file(), "it can be looked at"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gone.jpg", "--box", "1,2,30,40"], 1, "file.missing: "),
        (["photo.jpg", "--box", "1,2,3000,40"], 1, "clip it"),
        (["photo.jpg", "--box", "1,2,3"], 1, "expected 4 whole numbers"),
        (["photo.jpg", "--box", "1,2,30,40", "--reference", "gone.png"], 1, "gone.png: no such file"),
        (["photo.jpg", "--mask", "logo.png"], 1, "masks must match"),
        (["photo.jpg"], 2, "mark one region: --box"),
        (["photo.jpg", "--box", "1,2,30,40", "--mask", "mask.png"], 2, "mark one region: --box"),
        (["photo.jpg", "--scribble", "1;2"], 2, "expected points"),
        (["photo.jpg", "--box", "1,2,30,40", "-o", "photo.jpg"], 2, "sources are never overwritten"),
        (["photo.jpg", "--box", "1,2,30,40", "--model", "no-such"], 2, "is not a preset"),
        (["photo.jpg", "--box", "1,2,30,40", "--set", "refine.pastel=1"], 2, "did you mean 'paste'"),
    ],
)
@pytest.mark.processes
def test_what_goes_wrong_is_one_message_with_the_remedy(site: Path, arguments: list[str], code: int, said: str) -> None:
    before = (site / "photo.jpg").read_bytes()
    paths = [str(site / a) if a.endswith((".jpg", ".png")) else a for a in arguments]
    result = cli("image", *paths, *QUICK, home=site)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert (site / "photo.jpg").read_bytes() == before
