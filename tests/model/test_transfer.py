"""The registered reference as a refiner: no torch, no weights; where it fits it is pasted, else it is said why not."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest

from refine_ops.chain import Finished, refine_image
from refine_ops.config import ImageLimits, ModelSettings, RefineSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.image.read import decode
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.source import resolve_model
from refine_ops.model.transfer import TransferRefiner, with_grain
from refine_ops.model.transfer_first import TransferFirst
from refine_ops.records import Conditioning, Item, Patch, Region
from tests.bench.composites import Composite, composite

FITS = composite(15, "train", "plane", "blur")
SETTINGS = RefineSettings(model=ModelSettings(model="transfer"))


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def refined(made: Composite, refiner: Any, references: Sequence[np.ndarray], settings: RefineSettings) -> Finished:
    names = tuple(f"r{n}" for n in range(len(references)))
    region = Region("0", "the label", mask="m", reference=names[0] if names else None, references=names[1:])
    files = {"i": png(made.image), "m": png(made.mask.astype(np.uint8) * 255)}
    files |= {name: png(image) for name, image in zip(names, references, strict=True)}
    return refine_image(Item("a", "i", "o", (region,), 0), files, refiner, settings)


def pixels(finished: Finished) -> np.ndarray:
    return decode(finished.data, name="out", limits=ImageLimits()).rgb


def psnr(one: np.ndarray, made: Composite) -> float:
    return float(10 * np.log10(255**2 / np.square(one[made.mask].astype(float) - made.target[made.mask]).mean()))


def test_a_fitting_reference_is_pasted_in_its_pose_and_the_outcome_says_so() -> None:
    finished = refined(FITS, TransferRefiner(), [FITS.reference], SETTINGS)
    assert psnr(pixels(finished), FITS) > psnr(FITS.image, FITS) + 3
    [outcome] = finished.regions
    assert outcome.made_by == "transfer"
    assert outcome.agreement is not None
    assert (outcome.agreement.verdict, outcome.agreement.reference) == ("fits", "r0")
    assert finished.verification.changed_outside_px == 0
    assert finished.data == refined(FITS, TransferRefiner(), [FITS.reference], SETTINGS).data


@pytest.mark.long
def test_of_several_references_the_best_is_taken() -> None:
    wrong = composite(1001, "train").reference
    finished = refined(FITS, TransferRefiner(), [wrong, FITS.reference], SETTINGS)
    assert finished.regions[0].agreement.reference == "r1"
    assert psnr(pixels(finished), FITS) > psnr(FITS.image, FITS) + 3


def test_a_region_without_a_fitting_reference_is_refused_with_the_numbers() -> None:
    with pytest.raises(ItemError, match=r"agreement \d\.\d\d") as error:
        refined(FITS, TransferRefiner(), [composite(1001, "train").reference], SETTINGS)
    assert error.value.reason == "reference.unfit"
    with pytest.raises(ItemError, match="no reference"):
        refined(FITS, TransferRefiner(), [], SETTINGS)


def test_what_nothing_confirms_is_taken_only_where_the_settings_say_so() -> None:
    erased = composite(13, "train", "plane", "erased")
    with pytest.raises(ItemError, match="shows nothing that could confirm it"):
        refined(erased, TransferRefiner(), [erased.reference], SETTINGS)
    lenient = RefineSettings(model=ModelSettings(model="transfer", accept_unverifiable=True))
    finished = refined(erased, TransferRefiner(), [erased.reference], lenient)
    assert psnr(pixels(finished), erased) > psnr(erased.image, erased) + 3


class Network:
    """Stands for a network: keeps what it is given and returns it darker."""

    grid_px, focus_pixels, tile_zoom = 8, 128 * 128, 0.0

    def __init__(self, reference: str) -> None:
        self.reference = reference
        self.given: list[Conditioning] = []

    def batch_size(self, bucket: object) -> int:
        return 4

    def prepare(self, item: Conditioning) -> Conditioning:
        self.given.append(item)
        return item

    def refine_prepared(self, batch: Sequence[Conditioning]) -> list[Patch]:
        return [Patch(i.image.astype(np.float32) / 300, np.ones(i.mask.shape, bool), 1) for i in batch]


@pytest.mark.parametrize("policy", ["as_given", "registered"])
def test_transfer_first_runs_the_network_only_where_no_reference_fits(policy: str) -> None:
    network = Network(policy)
    first = TransferFirst(network)  # type: ignore[arg-type]
    settings = RefineSettings(model=ModelSettings(first="transfer"))
    assert refined(FITS, first, [FITS.reference], settings).regions[0].made_by == "transfer"
    assert network.given == []
    wrong = composite(1001, "train").reference
    assert refined(FITS, first, [wrong], settings).regions[0].made_by == "model"
    [given] = network.given
    if policy == "as_given":
        assert np.array_equal(given.reference, wrong)
    else:
        assert given.reference is None


def test_a_batch_of_both_kinds_keeps_its_order() -> None:
    network = Network("registered")
    first = TransferFirst(network)  # type: ignore[arg-type]
    image, mask = np.full((32, 32, 3), 90, np.uint8), np.ones((32, 32), bool)
    plain = Conditioning(image, mask, mask, "", 1)
    fitting = dataclasses.replace(plain, reference=np.full_like(image, 200), covered=mask)
    made = first.refine_prepared([first.prepare(i) for i in (plain, fitting, plain, fitting)])
    assert [p.made_by for p in made] == ["model", "transfer", "model", "transfer"]
    assert [round(float(p.pixels.mean()) * 255) for p in made] == [76, 200, 76, 200]


def test_the_photos_grain_is_added_where_the_reference_has_none() -> None:
    rng = np.random.default_rng(1)
    photo = np.rint(np.clip(120 + 6 * rng.standard_normal((96, 96, 3)), 0, 255)).astype(np.uint8)
    flat, known = np.full_like(photo, 80), np.ones((96, 96), bool)
    grained = with_grain(flat, photo, known, 3)
    assert grained.std() == pytest.approx(6, rel=0.15)
    assert grained.mean() == pytest.approx(80, abs=0.3)
    assert np.array_equal(grained, with_grain(flat, photo, known, 3))
    assert not np.array_equal(grained, with_grain(flat, photo, known, 4))
    assert with_grain(photo, photo, known, 3).std() == pytest.approx(photo.std(), rel=0.1)


@pytest.mark.processes
def test_transfer_works_where_torch_is_not_installed() -> None:
    program = (
        "import sys\nfor name in ('torch', 'diffusers', 'transformers'): sys.modules[name] = None\n"
        "from refine_ops.config import ModelSettings\n"
        "from refine_ops.model.open import open_refiner\n"
        "from refine_ops.model.source import resolve_model\n"
        "from refine_ops.model.fingerprint import fingerprint_model\n"
        "import refine_ops.chain\n"
        "settings = ModelSettings(model='transfer')\n"
        "print(type(open_refiner(settings, None)).__name__)\n"
        "print(fingerprint_model(resolve_model(settings), settings)['model'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["TransferRefiner", "transfer"], done.stderr


def test_settings_of_a_network_are_refused() -> None:
    with pytest.raises(JobError, match="leave out adapters"):
        resolve_model(ModelSettings(model="transfer", adapters=("a.safetensors",)))


def test_how_references_are_given_is_in_the_fingerprint() -> None:
    made = [ModelSettings(), ModelSettings(reference="as_given"), ModelSettings(first="transfer")]
    prints = [fingerprint_model(resolve_model(settings), settings) for settings in made]
    assert prints[0]["preset.reference"] == '"registered"'
    assert len({str(sorted(p.items())) for p in prints}) == 3
