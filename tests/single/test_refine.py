"""`refine`: one picture in one call, however the caller holds it; and `import refine_ops` stays cheap."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import refine_ops
from refine_ops.config import AccessSettings, ImageLimits, ModelSettings, RefineSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.image.read import decode_rgb

QUICK = RefineSettings(model=ModelSettings(steps=1), publish="all")
BOX = (60, 50, 110, 90)


@pytest.fixture(scope="module")
def small(photo: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photo[40:200, 150:330])


@pytest.fixture
def jpeg(tmp_path: Path, small: np.ndarray) -> Path:
    Image.fromarray(small).save(tmp_path / "photo.jpg", quality=92)
    return tmp_path / "photo.jpg"


def test_a_file_comes_back_in_its_own_format_with_everything_that_is_known_of_it(jpeg: Path) -> None:
    result = refine_ops.refine(jpeg, box=BOX, settings=QUICK)
    assert isinstance(result, refine_ops.Refined)
    assert (result.format, result.data[:2]) == ("jpeg", b"\xff\xd8")
    assert result.proof.changed_outside_px == 0
    [region], [mask] = result.regions, result.masks
    x0, y0, x1, y1 = BOX
    assert mask[y0:y1, x0:x1].all()
    assert np.count_nonzero(mask) == (x1 - x0) * (y1 - y0)
    assert region.tight == BOX
    assert 0 < np.count_nonzero(result.changed) < mask.size / 2
    assert np.array_equal(result.after, decode_rgb(result.data, name="x", limits=ImageLimits()))
    assert np.asarray(result.image).shape == result.before.shape
    assert f"{(x1 - x0) * (y1 - y0):,} px marked" in str(result)
    assert f"seed {region.seed}" in str(result)


def test_the_same_call_gives_the_same_bytes_and_another_seed_others(jpeg: Path) -> None:
    first = refine_ops.refine(jpeg, box=BOX, settings=QUICK)
    assert refine_ops.refine(str(jpeg), box="60,50,110,90", settings=QUICK).data == first.data
    assert refine_ops.refine(jpeg, box=np.array(BOX), seed=np.int64(7), settings=QUICK).data != first.data


@pytest.mark.parametrize("kind", ["bytes", "array", "pil", "grey", "alpha"])
def test_a_picture_in_memory_is_as_good(small: np.ndarray, kind: str) -> None:
    out = io.BytesIO()
    Image.fromarray(small).save(out, "PNG")
    alpha = np.dstack([small, np.full(small.shape[:2], 255, np.uint8)])
    pictures = {
        "bytes": out.getvalue(),
        "array": small,
        "pil": Image.fromarray(small),
        "grey": small[..., 0],
        "alpha": Image.fromarray(alpha),
    }
    result = refine_ops.refine(pictures[kind], box=BOX, settings=QUICK)
    assert result.format == "png"
    assert result.proof.changed_px > 0
    if kind in ("bytes", "array", "pil"):
        assert np.array_equal(result.before, small)


@pytest.mark.long
def test_masks_and_references_may_be_arrays_too(small: np.ndarray) -> None:
    mask = np.zeros(small.shape[:2], np.bool_)
    mask[50:90, 60:110] = True
    boxed = refine_ops.refine(small, box=BOX, reference=small, settings=QUICK)
    masked = refine_ops.refine(small, mask=mask, reference=Image.fromarray(small), settings=QUICK)
    assert np.array_equal(masked.masks[0], mask)
    assert masked.data == boxed.data
    inverted = refine_ops.refine(small, mask=~mask, mask_invert=True, reference=small, settings=QUICK)
    assert np.array_equal(inverted.masks[0], mask)
    alone = refine_ops.refine(small, box=BOX, settings=QUICK)
    assert alone.data != boxed.data, "the reference was seen"


def test_a_scribble_and_several_regions(small: np.ndarray) -> None:
    scribble = {"strokes": [[[20, 20], [60, 20]]], "width": 10}
    regions = [{"box": list(BOX), "prompt": "x"}, {"scribble": scribble, "seed": 7.0, "reference": small}]
    result = refine_ops.refine(small, regions=regions, settings=QUICK)
    assert [r.region_id for r in result.regions] == ["0", "1"]
    assert result.regions[1].seed == 7
    assert result.masks[1][20, 40]
    with pytest.raises(JobError, match="box beside `regions`"):
        refine_ops.refine(small, regions=regions, box=BOX)


def test_a_region_larger_than_the_model_s_picture_is_said_to_be(photo: np.ndarray) -> None:
    result = refine_ops.refine(photo, box=(0, 0, 512, 512), settings=QUICK)
    assert result.warnings == ()
    assert result.regions[0].tiles > 1
    assert f"in {result.regions[0].tiles} tiles" in str(result)
    whole = QUICK.model_copy(update={"focus": QUICK.focus.model_copy(update={"tiles": "none"})})
    result = refine_ops.refine(photo, box=(0, 0, 512, 512), settings=whole)
    assert "larger than the model's picture: seen at 0.25" in result.warnings[0]
    assert refine_ops.refine(photo, box=(200, 100, 250, 150), settings=QUICK).warnings == ()


def test_the_result_is_saved_and_never_over_a_source(jpeg: Path, small: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(small).save(tmp_path / "logo.jpg")
    (tmp_path / "link.jpg").symlink_to(jpeg)
    (tmp_path / "hard.jpg").hardlink_to(jpeg)
    before = jpeg.read_bytes()
    result = refine_ops.refine(jpeg, box=BOX, reference=tmp_path / "logo.jpg", settings=QUICK)
    for name in ("photo.jpg", "link.jpg", "hard.jpg", "logo.jpg", "sub/../photo.jpg"):
        with pytest.raises(JobError, match="is the source; sources are never overwritten"):
            result.save(tmp_path / name)
    assert jpeg.read_bytes() == before
    with pytest.raises(JobError, match=r"the picture is jpeg, name it \*\.jpg"):
        result.save(tmp_path / "out.png")
    assert Path(result.save(tmp_path / "new" / "out.JPG")).read_bytes() == result.data
    with Image.open(result.save_comparison(tmp_path / "seen.png")) as seen:
        assert seen.width > seen.height


@pytest.mark.parametrize(
    ("arguments", "reason", "said"),
    [
        ({"image": "gone.png", "box": BOX}, "file.missing", "gone.png: no such file"),
        ({"image": "C:\\a.png", "box": BOX}, "file.missing", "looks like a Windows path"),
        ({"image": b"", "box": BOX}, "image.empty", "image: the file has 0 bytes"),
        ({"image": b"hello", "box": BOX}, "image.not_an_image", "image"),
        ({"box": (0, 0, 9999, 10)}, "box.outside", "9999"),
        ({"box": (1, 2, 3)}, "box.invalid", "expected 4 whole numbers"),
        ({}, "region.shape", "expected one of box, mask, scribble"),
        ({"box": BOX, "mask": np.ones((4, 4), np.bool_)}, "region.shape", "'box', 'mask'"),
        ({"mask": np.zeros((4, 4), np.bool_)}, "mask.size", "mask: the mask is 4 x 4"),
        ({"box": BOX, "reference": np.zeros((4, 4), np.float32)}, "image.unsupported", "reference: an array float32"),
        ({"box": BOX, "reference": "gone.png"}, "file.missing", "gone.png"),
        ({"box": BOX, "prompt": " "}, "prompt.empty", "say what to refine"),
        ({"box": BOX, "seed": -1}, "seed.invalid", "seed -1"),
    ],
)
def test_what_cannot_be_refined_names_the_picture_and_the_remedy(
    small: np.ndarray, arguments: dict[str, object], reason: str, said: str
) -> None:
    with pytest.raises(ItemError) as caught:
        refine_ops.refine(**{"image": small, "settings": QUICK, **arguments})
    assert caught.value.reason == reason
    assert said in str(caught.value)


def test_only_allowed_roots_are_read(jpeg: Path, tmp_path: Path) -> None:
    access = AccessSettings(roots=(str(tmp_path / "other"),))
    with pytest.raises(ItemError) as caught:
        refine_ops.refine(jpeg, box=BOX, access=access)
    assert caught.value.reason == "uri.forbidden"


@pytest.mark.processes
def test_importing_the_package_loads_nothing() -> None:
    code = (
        "import sys, refine_ops\n"
        "assert 'refine' in refine_ops.__all__ and refine_ops.__version__\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'prefect', 'pyarrow', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from refine_ops import refine\n"
        "assert refine.__name__ == 'refine'\n"
        "assert not {'torch', 'prefect'} & set(sys.modules), 'before the first picture'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


BLURRED = (70, 80, 150, 140)


@pytest.fixture(scope="module")
def damaged(photo: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo, the same blurred in a box, and a turned and enlarged view of what the box shows."""
    whole = np.ascontiguousarray(photo[120:320, 260:480])
    blurred = whole.copy()
    blurred[80:140, 70:150] = np.asarray(Image.fromarray(whole[80:140, 70:150]).resize((10, 8)).resize((80, 60)))
    turned = np.asarray(Image.fromarray(whole[40:180, 30:190]).rotate(6, Image.Resampling.BICUBIC).resize((240, 210)))
    return whole, blurred, turned


def error(image: np.ndarray, truth: np.ndarray) -> float:
    return float(np.square(image[80:140, 70:150].astype(float) - truth[80:140, 70:150]).mean())


def test_a_fitting_reference_is_transferred_without_a_network(
    damaged: tuple[np.ndarray, np.ndarray, np.ndarray], photo: np.ndarray
) -> None:
    whole, blurred, turned = damaged
    result = refine_ops.refine(blurred, box=BLURRED, reference=turned, model="transfer")
    assert error(result.after, whole) < error(blurred, whole) / 4, "6 dB nearer to the truth"
    [region], [given] = result.regions, result.given
    assert region.agreement is not None
    assert (region.agreement.verdict, result.warnings) == ("fits", ())
    assert "reference reference fits (agreement 1." in str(result)
    assert given.reference is not None
    assert given.reference.shape == (region.model_height, region.model_width, 3), "warped into what the model sees"
    with pytest.raises(ItemError, match="no reference fits, refused: "):
        refine_ops.refine(blurred, box=BLURRED, reference=photo[:100, :100], model="transfer")


def test_of_several_references_or_a_folder_of_them_the_one_that_agrees_is_taken(
    damaged: tuple[np.ndarray, np.ndarray, np.ndarray], photo: np.ndarray, tmp_path: Path
) -> None:
    whole, blurred, turned = damaged
    folder = tmp_path / "brand"
    (folder / "old").mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(photo[:100, :100])).save(folder / "a.PNG")
    Image.fromarray(turned).save(folder / "old" / "b.png")
    (folder / "notes.txt").write_text("no picture")
    wrong, right = folder / "a.PNG", folder / "old" / "b.png"
    results = [
        refine_ops.refine(blurred, box=BLURRED, reference=[photo[:100, :100], turned], model="transfer"),
        refine_ops.refine(blurred, box=BLURRED, reference=[str(wrong), right], model="transfer"),
        refine_ops.refine(blurred, box=BLURRED, reference=folder, model="transfer"),
        refine_ops.refine(
            blurred, regions=[{"box": BLURRED, "reference": wrong, "references": [right]}], model="transfer"
        ),
    ]
    assert len({result.data for result in results}) == 1
    assert error(results[0].after, whole) < error(blurred, whole) / 4
    taken = [result.regions[0].agreement for result in results]
    assert [a.reference for a in taken if a] == ["reference (2)", *[str(right)] * 3]
    assert all(a and a.lead > 0.2 for a in taken)
    assert "b.png fits" in str(results[2])
    for source in (wrong, right):
        with pytest.raises(JobError, match="sources are never overwritten"):
            results[2].save(source)


def test_folders_that_are_no_list_of_references_say_so(small: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="a folder without pictures"):
        refine_ops.refine(small, box=BOX, reference=tmp_path, model="transfer")
    with pytest.raises(ItemError, match="17 references, at most 16"):
        refine_ops.refine(small, box=BOX, reference=[small] * 17, model="transfer")
    with pytest.raises(ItemError, match="has no reference"):
        refine_ops.refine(small, box=BOX, reference=[], model="transfer")


def test_a_reference_that_the_model_was_not_given_is_said_not_to_be(
    damaged: tuple[np.ndarray, np.ndarray, np.ndarray], photo: np.ndarray
) -> None:
    _, blurred, _ = damaged
    result = refine_ops.refine(blurred, box=BLURRED, reference=photo[:100, :100], settings=QUICK)
    assert result.given[0].reference is None
    [said] = result.warnings
    assert said.startswith("region 0: the reference was not used, refused (agreement 0.")


@pytest.mark.processes
def test_transferring_needs_no_torch(damaged: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """The command line and the call, where importing torch or a library built on it fails."""
    _, blurred, turned = damaged
    photo, reference, out = (str(tmp_path / name) for name in ("photo.png", "reference.png", "out.png"))
    Image.fromarray(blurred).save(photo)
    Image.fromarray(turned).save(reference)
    box = ",".join(map(str, BLURRED))
    typed = ["image", photo, "--box", box, "--reference", reference, "--model", "transfer", "-o", out, "--show"]
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'diffusers', 'transformers', 'accelerate', 'peft'):\n"
        "    sys.modules[name] = None\n"
        "import refine_ops\n"
        f"result = refine_ops.refine({photo!r}, box={box!r}, reference={reference!r}, model='transfer')\n"
        f"sys.argv = ['refine-ops', *{typed!r}]\n"
        "from flows.cli.main import main\n"
        "main()\n"
        f"assert open({out!r}, 'rb').read() == result.data\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "reference.png fits (agreement" in done.stdout


def test_what_is_no_better_is_held_and_not_saved_as_if_it_were(jpeg: Path, tmp_path: Path) -> None:
    """One step of the small model without a reference convinces no gate."""
    settings = QUICK.model_copy(update={"publish": "gated"})
    result = refine_ops.refine(jpeg, box=BOX, settings=settings)
    assert result.all_held
    assert list(result.held) == ["0"]
    assert result.why.startswith("held: ")
    assert result.data == jpeg.read_bytes()
    assert (result.proof, result.changed.any()) == (None, np.False_)
    assert result.candidate is not None
    assert (result.candidate != result.before).any()
    with pytest.raises(JobError, match="nothing to write but the source itself"):
        result.save(tmp_path / "out.jpg")
    assert not (tmp_path / "out.jpg").exists()
    assert Path(result.save_comparison(tmp_path / "seen.png")).is_file()
    assert not refine_ops.refine(jpeg, box=BOX, settings=settings, publish="all").held
