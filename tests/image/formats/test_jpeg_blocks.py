"""The JPEG splice against its definition: coefficients, MCUs, decoders that smooth and decoders that do not."""

import random
import subprocess
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import jpegio
import numpy as np
import pytest
from PIL import ExifTags, Image
from skimage.metrics import structural_similarity

from refine_ops.config import PasteSettings, RefineSettings, WriteSettings
from refine_ops.errors import ItemError
from refine_ops.image import read, write
from refine_ops.opened import open_item
from refine_ops.records import Item, Region
from tests.support.chain import LIMITS, box_mask, jpeg_allowance, near, refine
from tests.support.made_files import (
    MCU,
    SAMPLINGS,
    exif_block,
    jpeg,
    odd_jpeg,
    opencv_samples,
    pillow_samples,
    png,
    with_segments,
)
from tests.support.programs import program

BOX = (70, 60, 101, 85)
WIDTH, HEIGHT = 203, 149


@pytest.fixture(scope="module")
def rgb(photo: np.ndarray) -> np.ndarray:
    return photo[40 : 40 + HEIGHT, 120 : 120 + WIDTH]


def coefficients(data: bytes, folder: Path) -> list[np.ndarray]:
    path = folder / "read.jpg"
    path.write_bytes(data)
    return [c.copy() for c in jpegio.read(str(path)).coef_arrays]


def djpeg(data: bytes, *options: str) -> np.ndarray:
    done = subprocess.run([program("djpeg"), "-ppm", *options], input=data, capture_output=True, check=True)
    return np.asarray(Image.open(BytesIO(done.stdout)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
def test_no_coefficient_outside_the_touched_mcus_changes(
    rgb: np.ndarray, sampling: str, progressive: bool, tmp_path: Path
) -> None:
    data = jpeg(rgb, sampling, progressive=progressive)
    done = refine(data, [BOX])
    width, height = MCU[sampling]
    support = near([BOX], WIDTH, HEIGHT)
    touched = jpeg_allowance(support, (width, height), "none")
    old, new = coefficients(data, tmp_path), coefficients(done.encoded.data, tmp_path)
    for index, (before, after) in enumerate(zip(old, new, strict=True)):
        scale = (1, 1) if index == 0 else (height // 8, width // 8)
        ys, xs = np.nonzero(before != after)
        rows, columns = ys // 8 * 8 * scale[0], xs // 8 * 8 * scale[1]
        assert touched[np.minimum(rows, HEIGHT - 1), np.minimum(columns, WIDTH - 1)].all()
    assert any((a != b).any() for a, b in zip(old, new, strict=True))
    expected = sum(
        support[y : y + height, x : x + width].any() for y in range(0, HEIGHT, height) for x in range(0, WIDTH, width)
    )
    assert done.proof.touched_mcus == expected


@pytest.mark.processes
@pytest.mark.parametrize("options", [[], ["-nosmooth"], ["-dct", "fast"], ["-dct", "float"], ["-onepass"]])
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440"])
def test_djpeg_agrees_in_every_mode(rgb: np.ndarray, sampling: str, options: list[str]) -> None:
    data = jpeg(rgb, sampling)
    output = refine(data, [BOX]).encoded.data
    before, after = djpeg(data, *options), djpeg(output, *options)
    allowed = jpeg_allowance(near([BOX], WIDTH, HEIGHT), MCU[sampling], "none" if "-nosmooth" in options else "edge")
    assert not ((before != after).any(axis=2) & ~allowed).any()


def rescanned(data: bytes, script: str, folder: Path) -> bytes:
    """The same coefficients in the scans that a script of jpegtran's says."""
    (folder / "scans").write_text(script)
    (folder / "whole.jpg").write_bytes(data)
    command = [program("jpegtran"), "-scans", folder / "scans", folder / "whole.jpg"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def drawn_script(rng: random.Random, components: int) -> str:
    """A legal progression: first the means, then bands of each component in any order, refined bit by bit."""
    low, together = rng.randrange(3), components == 1 or rng.random() < 0.7
    names = [str(index) for index in range(components)]
    lines = [f"{','.join(group)}: 0-0, 0, {low};" for group in ([names] if together else [[name] for name in names])]
    chains = [[f"{','.join(names)}: 0-0, {bit}, {bit - 1};" for bit in range(low, 0, -1)]]
    for name in names:
        cuts = [0, *sorted(rng.sample(range(1, 63), rng.randint(0, 4))), 63]
        for first, last in pairwise(cuts):
            top = rng.randrange(4)
            band = f"{name}: {first + 1}-{last}"
            chains.append([f"{band}, 0, {top};", *(f"{band}, {bit}, {bit - 1};" for bit in range(top, 0, -1))])
    while chains := [chain for chain in chains if chain]:
        lines.append(rng.choice(chains).pop(0))
    return " ".join(lines)


@pytest.mark.processes
@pytest.mark.parametrize(
    "script", ["0; 1; 2;", "1,2: 0-0, 0, 0; 0: 0-0, 0, 0; 0: 1-63, 0, 0; 1: 1-63, 0, 0; 2: 1-63, 0, 0;"]
)
def test_components_in_scans_of_their_own(rgb: np.ndarray, script: str, tmp_path: Path) -> None:
    """What pyjpegio leaves unset for these would now and then be no table's number, and the file refused."""
    data = rescanned(jpeg(rgb, "420"), script, tmp_path)
    outputs = {refine(data, [BOX]).encoded.data for _ in range(8)}
    assert len(outputs) == 1, "the same bytes every time"
    allowed = jpeg_allowance(near([BOX], WIDTH, HEIGHT), MCU["420"], "edge")
    for decoded in (pillow_samples, opencv_samples, djpeg):
        assert not ((decoded(data) != decoded(outputs.copy().pop())).any(axis=2) & ~allowed).any()


@pytest.mark.processes
def test_no_progression_is_refused(rgb: np.ndarray, tmp_path: Path) -> None:
    """Of 200 drawn ones 54 were, before the table numbers were set."""
    rng = random.Random(2)
    for index in range(40):
        grey = index % 5 == 4
        sampling, quality = rng.choice(["444", "422", "420"]), rng.randint(20, 97)
        plain = odd_jpeg(rgb, "grey") if grey else jpeg(rgb, sampling, quality=quality)
        data = rescanned(plain, drawn_script(rng, 1 if grey else 3), tmp_path)
        assert refine(data, [BOX]).proof.changed_outside_px == 0


@pytest.mark.parametrize("sampling", ["422", "420", "440"])
def test_bleed_is_one_pixel_and_none_removes_it(rgb: np.ndarray, sampling: str) -> None:
    data = jpeg(rgb, sampling)
    inside = jpeg_allowance(near([BOX], WIDTH, HEIGHT), MCU[sampling], "none")
    outside = {}
    for bleed in ("edge", "none"):
        output = refine(data, [BOX], WriteSettings(jpeg_bleed=bleed)).encoded.data
        differs = (pillow_samples(data) != pillow_samples(output)).any(axis=2)
        outside[bleed] = int((differs & ~inside).sum())
    assert outside["edge"] > 0  # the effect is real, or this test would prove nothing
    assert outside["none"] == 0


def test_five_successive_refinements_leave_the_rest_as_the_original(rgb: np.ndarray) -> None:
    boxes = [(10, 10, 30, 30), (90, 20, 120, 40), (150, 90, 190, 120), (20, 100, 50, 140), (80, 70, 110, 95)]
    original = jpeg(rgb, "420", quality=80)
    data, allowed = original, np.zeros((HEIGHT, WIDTH), bool)
    for index, box in enumerate(boxes):
        data = refine(data, [box], rng=np.random.default_rng(index)).encoded.data
        allowed |= jpeg_allowance(near([box], WIDTH, HEIGHT), MCU["420"], "edge")
    assert allowed.mean() < 0.6
    for decoded in (pillow_samples, opencv_samples):
        assert not ((decoded(original) != decoded(data)).any(axis=2) & ~allowed).any()


def test_the_region_is_as_close_as_a_full_save_at_the_same_tables(rgb: np.ndarray) -> None:
    """PSNR of the edited region against the canvas: what libjpeg reaches coding the canvas itself, within 0.3 dB."""
    data = jpeg(rgb, "444", quality=85)
    done = refine(data, [BOX])
    wanted = done.canvas.rgb.astype(float)
    resaved, tables = BytesIO(), Image.open(BytesIO(data)).quantization
    Image.fromarray(done.canvas.rgb).save(resaved, "JPEG", qtables=tables, subsampling=0)
    window = np.s_[BOX[1] : BOX[3], BOX[0] : BOX[2]]

    def psnr(samples: np.ndarray) -> float:
        return float(10 * np.log10(255**2 / ((samples[window] - wanted[window]) ** 2).mean()))

    assert psnr(pillow_samples(done.encoded.data)) > psnr(pillow_samples(resaved.getvalue())) - 0.3


@pytest.mark.parametrize("kind", ["cmyk", "ycck", "rgb", "grey"])
def test_other_colour_codings_show_the_edit(rgb: np.ndarray, kind: str) -> None:
    """A wrong sign or matrix would still leave the background alone; the region must come out as pasted."""
    done = refine(odd_jpeg(rgb, kind, quality=97), [BOX])
    got = read.decode(done.encoded.data, name="again", limits=LIMITS).rgb.astype(float)
    window = np.s_[BOX[1] : BOX[3], BOX[0] : BOX[2]]
    wanted = done.canvas.rgb[window].astype(float)
    assert np.abs(got[window] - wanted).mean() < 3
    assert np.abs(done.source.rgb[window] - wanted).mean() > 40


def test_confined_to_the_region_nothing_outside_it_changes(rgb: np.ndarray) -> None:
    box = (40, 30, 140, 120)
    data = jpeg(rgb, "420")
    done = refine(data, [box], confine=True)
    before, after = pillow_samples(data), pillow_samples(done.encoded.data)
    background = ~box_mask(done.source, box)
    assert (before != after).any()
    assert not ((before != after).any(axis=2) & background).any()
    _, similarity = structural_similarity(before, after, channel_axis=2, win_size=3, full=True)
    far = ~near([box], WIDTH, HEIGHT, reach=1)
    assert similarity[far].min() > 1 - 1e-9


def test_a_region_below_one_mcu_cannot_be_confined(rgb: np.ndarray) -> None:
    with pytest.raises(ItemError, match="no JPEG block lies wholly inside") as caught:
        refine(jpeg(rgb, "420"), [(3, 3, 12, 12)], confine=True)
    assert caught.value.reason == "region.below_mcu"


def test_a_region_that_cannot_be_confined_is_refused_before_anything_runs(rgb: np.ndarray) -> None:
    """By `check --open`, and before the model sees the item's other regions."""
    regions = tuple(Region(f"r{i}", "x", box=box) for i, box in enumerate([(0, 0, 64, 64), (3, 3, 12, 12)]))
    item, inputs = Item("a", "a.jpg", "a.jpg", regions, 0), {"a.jpg": jpeg(rgb, "420")}
    assert len(open_item(item, inputs, RefineSettings()).markings) == 2
    with pytest.raises(ItemError, match="no JPEG block lies wholly inside"):
        open_item(item, inputs, RefineSettings(paste=PasteSettings(confine="region")))


def test_a_missing_backend_is_refused_or_becomes_png(rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jpegio", None)
    with pytest.raises(ItemError, match="pyjpegio") as caught:
        refine(jpeg(rgb), [BOX])
    assert caught.value.reason == "jpeg.no_backend"
    done = refine(
        with_segments(jpeg(rgb), (0xE1, b"Exif\0\0" + exif_block(6))),
        [(60, 70, 85, 101)],
        WriteSettings(jpeg_fallback="png"),
    )
    assert done.encoded.format == "png"
    image = Image.open(BytesIO(done.encoded.data))
    assert image.size == (HEIGHT, WIDTH)  # upright: EXIF 6 turned the 203 x 149 picture
    assert image.getexif()[0x0112] == 1


@pytest.mark.parametrize("policy", ["drop", "refresh"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_thumbnail_no_longer_shows_the_old_picture(rgb: np.ndarray, policy: str, order: str) -> None:
    stale = np.full((48, 64, 3), 255, np.uint8)
    stale_thumbnail = jpeg(stale, "444", quality=100) + bytes(4000)
    block = exif_block(1, stale_thumbnail, order)
    data = with_segments(jpeg(rgb), (0xE1, b"Exif\0\0" + block))
    output = refine(data, [BOX], WriteSettings(thumbnail=policy)).encoded.data
    exif = Image.open(BytesIO(output)).getexif()
    assert exif[0x013B] == "A. Photographer"
    shown = exif.get_ifd(ExifTags.IFD.IFD1).get(0x0201)
    assert stale_thumbnail not in output
    if policy == "drop":
        assert shown is None
        return
    start = output.index(b"Exif\0\0") + 6 + shown
    small = np.asarray(Image.open(BytesIO(output[start : start + exif.get_ifd(ExifTags.IFD.IFD1)[0x0202]])))
    whole = Image.fromarray(pillow_samples(output)).resize((64, 47), Image.Resampling.BOX)
    assert np.abs(small[:47].astype(int) - np.asarray(whole)).mean() < 12


def test_trailing_bytes_and_segments_are_kept_in_order(rgb: np.ndarray) -> None:
    extra = [(0xED, b"Photoshop 3.0\0" + bytes(20)), (0xFE, b"first"), (0xE5, bytes(65000)), (0xFE, b"second")]
    data = with_segments(jpeg(rgb, restart=5), *extra, trailing=bytes(range(256)))
    output = refine(data, [BOX]).encoded.data
    at = [output.index(payload) for _, payload in extra]
    assert at == sorted(at)
    assert output.endswith(b"\xff\xd9" + bytes(range(256)))
    assert b"\xff\xdd\x00\x04\x00\x05" in output  # DRI, 5 MCUs


def test_png_change_mask_covers_what_changed(rgb: np.ndarray) -> None:
    done = refine(png(rgb), [BOX])
    alpha = pillow_samples(write.change_mask(done.canvas))[..., 0]
    changed = (pillow_samples(done.encoded.data) != rgb).any(axis=2)
    assert alpha.shape == rgb.shape[:2]
    assert (alpha[changed] > 0).all()
    assert (alpha[BOX[1] : BOX[3], BOX[0] : BOX[2]] == 255).all()
    assert not alpha[~near([BOX], WIDTH, HEIGHT)].any()
