"""The synthetic source: same bytes for the same seed, change only inside the support, held-out means held out."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.data.stages import masks
from refine_ops.data.stages.damages import DAMAGES, degrade
from refine_ops.data.synthetic import Recipe, assets, library, render
from refine_ops.data.synthetic.marks import MARKS
from refine_ops.data.synthetic.prompts import all_prompts
from refine_ops.errors import ItemError, JobError

RECIPE = Recipe(seed=3, size=(96, 128))
TRAIN, HELD_OUT = library("train"), library("heldout")


def test_same_seed_same_bytes_in_any_order() -> None:
    first = [render(index, RECIPE, TRAIN) for index in (5, 9, 5)]
    again = [render(index, RECIPE, TRAIN) for index in (9, 5)]
    for one, other in ((first[0], first[2]), (first[0], again[1]), (first[1], again[0])):
        assert one.input.tobytes() == other.input.tobytes()
        assert one.target.tobytes() == other.target.tobytes()
        assert one.mask.tobytes() == other.mask.tobytes()
        assert (one.prompt, one.families, one.sources) == (other.prompt, other.families, other.sources)
    assert first[0].input.tobytes() != first[1].input.tobytes()
    assert render(5, replace(RECIPE, seed=4), TRAIN).input.tobytes() != first[0].input.tobytes()


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 2**31), reference=st.booleans())
def test_damage_is_inside_the_support_and_visible_in_the_mask(index: int, reference: bool) -> None:
    sample = render(index, replace(RECIPE, reference_share=float(reference)), TRAIN)
    assert sample.input.shape == sample.target.shape == (128, 96, 3)
    changed = (sample.input != sample.target).any(2)
    assert not (changed & ~sample.support).any()
    assert (changed & sample.mask).any()
    assert (sample.mask <= sample.support).all()
    # Eq. 8's reach: dilation 7 and kernel 11 go 3 + 5 px past the mask, no further.
    reach = cv2.dilate(sample.mask.astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
    assert (sample.support <= reach).all()
    assert (sample.reference is not None) == reference
    assert sample.prompt in all_prompts()
    assert sample.sources or sample.family in MARKS


def test_reference_in_pose_0_lies_on_the_mark_and_wanders_off_with_pose() -> None:
    """Marks cover the reference where they cover the target, so edges agree; in another pose they do not."""

    def agreement(pose: float) -> float:
        recipe = Recipe(seed=8, reference_share=1.0, pose=(pose, pose), photo_regions=0.0, photo_share=0.0)
        scores = []
        for index in range(40):
            sample = render(index, replace(recipe, exclude=frozenset({"thin", "barcode"})), TRAIN)
            assert sample.reference is not None
            inside = cv2.erode(sample.object_mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
            a, b = (cv2.Laplacian(cv2.GaussianBlur(image, (5, 5), 0)[:, :, 1], cv2.CV_32F)[inside] for image in (
                sample.target, sample.reference))  # fmt: skip
            if a.size > 50 and a.std() > 2 and b.std() > 2:
                scores.append(float(np.corrcoef(a, b)[0, 1]))
        return float(np.mean(scores))

    same, near, far = agreement(0.0), agreement(0.05), agreement(1.0)
    assert same > 0.8
    assert same > near > far
    assert far < 0.4


def test_held_out_assets_are_disjoint_by_hash(tmp_path: Path) -> None:
    def hashes(side: assets.Library) -> set[str]:
        return {assets.sha256(path) for path in side.fonts + side.icon_fonts + side.photos}

    assert not hashes(TRAIN) & hashes(HELD_OUT)
    assert len(HELD_OUT.photos) == 4
    for path in HELD_OUT.photos + HELD_OUT.fonts:
        (tmp_path / f"copy-of-{path.name}").write_bytes(path.read_bytes())
    assert not hashes(library("train", (tmp_path,))) & hashes(HELD_OUT)


def test_every_sample_names_the_files_it_used() -> None:
    known = {assets.sha256(path) for path in TRAIN.fonts + TRAIN.icon_fonts + TRAIN.photos}
    used = {digest for index in range(30) for _, digest in render(index, RECIPE, TRAIN).sources}
    assert used <= known
    assert len(used) > 6


def test_excluded_families_never_appear() -> None:
    excluded = frozenset({"text", "numbers", "barcode", "photo", "noise", "defocus_blur"})
    for index in range(40):
        assert not excluded & set(render(index, replace(RECIPE, exclude=excluded), TRAIN).families)
    with pytest.raises(JobError, match="not excluded"):
        render(0, replace(RECIPE, exclude=frozenset({*MARKS, "photo"})), TRAIN)


def test_families_all_appear() -> None:
    seen = {family for index in range(150) for family in render(index, RECIPE, TRAIN).families}
    assert seen == {*MARKS, *DAMAGES, "photo"}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_each_damage_grows_with_strength_and_leaves_its_input_alone(name: str) -> None:
    sample = render(0, Recipe(seed=1, photo_regions=0.0, exclude=frozenset({"thin", "icon"})), TRAIN)
    image, before = sample.target, sample.target.copy()

    def error(strength: float) -> float:
        results = [DAMAGES[name](image, sample.mask, strength, np.random.default_rng(seed)) for seed in range(6)]
        assert all(result.shape == image.shape and result.dtype == np.uint8 for result in results)
        return float(
            np.mean([np.square(result[sample.mask].astype(float) - image[sample.mask]).mean() for result in results])
        )

    assert error(1.0) > error(0.0) > 0
    assert np.array_equal(image, before)


def test_degrade_draws_by_weight_and_names_unknown_ones() -> None:
    image, mask = np.full((32, 32, 3), 128, np.uint8), np.ones((32, 32), bool)
    rng = np.random.default_rng(0)
    for _ in range(10):
        _, steps = degrade(image, mask, rng, {"noise": 1.0, "ghosting": 0.0}, steps=(1, 3))
        assert [name for name, _ in steps] == ["noise"]
    with pytest.raises(JobError, match="melt"):
        degrade(image, mask, rng, {"melt": 1.0})
    with pytest.raises(JobError, match="got none"):
        degrade(image, mask, rng, {"noise": 0.0})


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), x=st.integers(8, 60), w=st.integers(6, 60), h=st.integers(6, 50))
def test_scribbles_stay_on_the_dilated_object_within_limits(seed: int, x: int, w: int, h: int) -> None:
    shape = np.zeros((128, 128), bool)
    shape[30 : 30 + h, x : x + w] = True
    allowed = masks.dilated(shape)
    try:
        mask = masks.scribble_mask(shape, np.random.default_rng(seed))
    except ItemError as error:
        assert error.reason == "scribble.limits"  # noqa: PT017 (both outcomes are right)
        return
    assert (mask <= allowed).all()
    assert 0.15 <= mask.sum() / allowed.sum() <= 0.95
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 <= 3


def test_no_object_no_mask() -> None:
    nothing = np.zeros((16, 16), bool)
    for draw in (masks.box_mask, lambda shape: masks.scribble_mask(shape, np.random.default_rng(0))):
        with pytest.raises(ItemError) as caught:
            draw(nothing)
        assert caught.value.reason == "object.empty"
