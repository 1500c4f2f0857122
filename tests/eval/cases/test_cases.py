"""Case sets: what is built holds what the card says, and what was tampered with is refused."""

import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_ops.config import ImageLimits
from refine_ops.data.synthetic import assets
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.annotations import Annotation, read_annotations, read_object
from refine_ops.eval.cases.build import build_cases
from refine_ops.eval.cases.case_set import FREE_CATEGORIES, REFERENCE_CATEGORIES, load_cases, load_input
from refine_ops.eval.cases.degraded import DegradedVersion, pick, select
from refine_ops.eval.cases.mini import write_mini
from refine_ops.eval.config import BuildCasesConfig
from refine_ops.proof.allowed import Rules, allowed_change

LIMITS = ImageLimits()
SOME = ("object-tower", "text-code", "person-smile")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set")
    build_cases(BuildCasesConfig(out=str(out), only=SOME, scribbles=3, seeds=2))
    return out


def test_every_input_equals_its_truth_outside_the_allowed_change(built: Path) -> None:
    cases = load_cases(str(built))
    assert Counter(i.case_id for i in cases.inputs) == dict.fromkeys(SOME, 6)
    assert {i.input[-4:] for i in cases.inputs} == {".png", ".jpg"}
    for item in cases.inputs:
        loaded = load_input(cases, item, LIMITS)
        changed = (loaded.image != loaded.target).any(2)
        assert changed.any()
        size = item.width, item.height
        allowed = allowed_change([(loaded.mask, "mask")], size, loaded.data, loaded.data, Rules()).where
        assert not (changed & ~allowed).any()
        x0, y0, x1, y1 = item.object_box
        assert loaded.mask[y0:y1, x0:x1].sum() == loaded.mask.sum(), "M leaves the object box"
        assert 4 <= item.change <= 72 or item.input.endswith(".jpg")
        assert (loaded.reference is not None) == (item.setting == "reference")


def test_the_same_settings_build_the_same_bytes(built: Path, tmp_path: Path) -> None:
    again = build_cases(BuildCasesConfig(out=str(tmp_path), only=SOME, scribbles=3, seeds=2))
    assert again.digest == load_cases(str(built)).digest
    assert (tmp_path / "contact_sheet.png").read_bytes() == (built / "contact_sheet.png").read_bytes()


def test_two_inputs_of_a_degrader_have_different_scribbles(built: Path) -> None:
    chosen = Counter((i.case_id, i.degrader, i.candidate[:2]) for i in load_cases(str(built)).inputs)
    assert set(chosen.values()) == {1}


def test_a_hand_overrides_the_rule(built: Path, tmp_path: Path) -> None:
    overrides = tmp_path / "overrides.json"
    overrides.write_text(json.dumps({"text-code/erased": ["s2k1", "s2k0"]}))
    config = BuildCasesConfig(
        out=str(tmp_path / "o"), only=("text-code",), scribbles=3, seeds=2, overrides=str(overrides)
    )
    chosen = {i.degrader: [] for i in build_cases(config).inputs}
    for item in load_cases(str(tmp_path / "o")).inputs:
        chosen[item.degrader].append(item.candidate)
    assert chosen["erased"] == ["s2k1", "s2k0"]
    overrides.write_text(json.dumps({"text-code/erased": ["s9k9"]}))
    with pytest.raises(JobError, match="no version s9k9"):
        build_cases(config)


def test_mini_covers_both_settings_and_every_category_with_held_out_sources(tmp_path: Path) -> None:
    write_mini(str(tmp_path))
    rows, faults = read_annotations(str(tmp_path))
    assert not faults
    assert len(rows) >= 24
    assert {r.category for r in rows if r.setting == "reference"} == set(REFERENCE_CATEGORIES)
    assert {r.category for r in rows if r.setting == "free"} == set(FREE_CATEGORIES)
    train = assets.library("train")
    seen = {assets.sha256(p) for p in (*train.photos, *train.fonts, *train.icon_fonts)}
    assert not seen & {r.source_sha256 for r in rows}
    assert not seen & {assets.sha256(p) for p in assets.library("heldout").fonts}
    assert all(r.licence in ("public domain", "CC0-1.0") for r in rows)


def test_the_frozen_set_is_intact(frozen: str) -> None:
    cases = load_cases(frozen)
    assert len(cases.by_case()) == 4
    assert cases.digest.startswith("7be60f240a894e87")
    for item in cases.inputs:
        load_input(cases, item, LIMITS)


def test_a_changed_file_is_refused(frozen: str, tmp_path: Path) -> None:
    shutil.copytree(frozen, tmp_path / "set")
    cases = load_cases(str(tmp_path / "set"))
    path = tmp_path / "set" / cases.inputs[0].mask
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(JobError, match="is not the file the case set was made with"):
        load_input(cases, cases.inputs[0], LIMITS)
    path.unlink()
    with pytest.raises(JobError, match="no such file"):
        load_input(cases, cases.inputs[0], LIMITS)


def test_what_is_no_case_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="build a set with"):
        load_cases(str(tmp_path))
    (tmp_path / "cases.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(JobError, match="not Parquet"):
        load_cases(str(tmp_path))


GOOD = {
    "case_id": "a", "image": "a.png", "object_box": [4, 4, 60, 60], "setting": "free", "category": "object",
    "instruction": "Refine the disc", "source": "drawn", "licence": "CC0-1.0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "logo"}, "knows body, object, face, text"),
        ({"setting": "reference", "category": "logo"}, "contradict each other"),
        ({"licence": ""}, r"licence\n  Field required"),
        ({"case_id": "../a"}, "pattern"),
        ({"surprise": 1}, "Extra inputs"),
        ({"object_box": [0, 0, 500, 60]}, "box.outside"),
    ],
)
def test_bad_annotations_are_named_with_their_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    (tmp_path / "annotations.jsonl").write_text(json.dumps(GOOD | change))
    with pytest.raises(JobError, match=message):
        build_cases(BuildCasesConfig(annotations=str(tmp_path), out=str(tmp_path / "out")))


def test_own_images_without_a_mask_are_segmented_and_degraded(tmp_path: Path) -> None:
    image = np.full((96, 96, 3), 200, np.uint8)
    cv2.circle(image, (48, 48), 26, (30, 60, 160), -1)
    cv2.putText(image, "A7", (34, 56), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255, 255, 255), 2)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    row = GOOD | {"object_box": [18, 18, 78, 78]}
    (tmp_path / "annotations.jsonl").write_text(json.dumps(row))
    config = BuildCasesConfig(annotations=str(tmp_path), out=str(tmp_path / "out"), min_change=1.0)
    assert len(build_cases(config).inputs) == 6


def test_an_object_in_a_label_image_is_told_by_its_class(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[10:30, 10:30], labels[20:50, 25:50] = 3, 8
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "labels.png"), labels)
    row = GOOD | {"object_box": [20, 15, 60, 60], "object_mask": "labels.png"}
    with pytest.raises(ItemError, match="mask_class") as refused:
        read_object(str(tmp_path), Annotation.model_validate(row), LIMITS)
    assert refused.value.reason == "mask.ambiguous"
    _, found, _ = read_object(str(tmp_path), Annotation.model_validate(row | {"mask_class": 8}), LIMITS)
    assert np.array_equal(found, labels == 8)


def _versions(changes: list[float]) -> list[DegradedVersion]:
    blank = np.zeros((1, 1), bool), np.zeros((1, 1, 3), np.uint8)
    return [DegradedVersion("d", f"s{i // 3}k{i % 3}", i // 3, *blank, c) for i, c in enumerate(changes)]


@given(st.lists(st.floats(0, 100), min_size=4, max_size=15), st.integers(1, 3))
@settings(max_examples=200)
def test_the_rule_keeps_versions_in_the_band_and_of_different_scribbles(changes: list[float], keep: int) -> None:
    versions = _versions(changes)
    fit = [c for c in versions if 5 <= c.change <= 50]
    if len(fit) < keep:
        with pytest.raises(ItemError, match="are needed"):
            select(versions, keep, (5, 50))
        return
    chosen = select(versions, keep, (5, 50))
    assert len({c.name for c in chosen}) == keep
    assert set(chosen) <= set(fit)
    assert len({c.scribble for c in chosen}) == min(keep, len({c.scribble for c in fit}))


def test_hand_picked_versions_keep_their_order() -> None:
    assert [c.name for c in pick(_versions([1, 2, 3]), ["s0k2", "s0k0"])] == ["s0k2", "s0k0"]
