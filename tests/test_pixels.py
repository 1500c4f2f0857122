"""A change after which the same item gives other pixels is a new pixel version: run folders must not mix the two."""

import json
import re

import numpy as np
import pytest

import refine_ops
from refine_ops import PIXEL_VERSION
from refine_ops.image import place
from tests.support import ROOT
from tests.support.pixels import RECORD, changed, figures

RECORDED = json.loads(RECORD.read_text())


def test_pixels_are_those_of_the_recorded_version() -> None:
    assert RECORDED["pixel_version"] == PIXEL_VERSION, "record the new version's pixels: python -m tests.support.pixels"
    differ = changed(RECORDED["cases"], figures())
    assert not differ, (
        f"other pixels than those of pixel version {PIXEL_VERSION} in {', '.join(differ)}: raise "
        "refine_ops.PIXEL_VERSION, say so in refine_ops/CHANGELOG.md, and record anew with "
        "`python -m tests.support.pixels`"
    )


def test_a_blend_one_level_off_is_noticed_in_every_case(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = place.blend_mask

    def weaker(*arguments: object) -> np.ndarray:
        return exact(*arguments) * np.float32(0.98)  # type: ignore[arg-type]

    monkeypatch.setattr(place, "blend_mask", weaker)
    assert changed(RECORDED["cases"], figures()) == sorted(RECORDED["cases"])


def test_a_last_bit_of_16_is_rounding_and_the_next_is_not() -> None:
    name, means = next((name, kept) for name, kept in RECORDED["cases"].items() if isinstance(kept, list))
    assert changed({name: means}, {name: [means[0] + 1, *means[1:]]}) == []
    assert changed({name: means}, {name: [means[0] + 2, *means[1:]]}) == [name]
    assert changed({name: means}, {}) == [name]


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "refine_ops" / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+)", text, flags=re.MULTILINE)
    assert versions[0] == refine_ops.__version__
    assert f"Pixel version {PIXEL_VERSION}" in text.split("\n## ")[1]
