"""From detections to regions: sizes, scores, merging, overlap, limits, prompts; and what a detector may say wrongly."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from refine_ops.detect.finding.found import MAX_FOUND, Found, upright_quad, well_formed
from refine_ops.detect.regions.config import DetectRegionsConfig, Rule
from refine_ops.detect.regions.rules import RuleBook, Weighed
from refine_ops.errors import JobError

IMAGE = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)


class Finds:
    """A finder by name alone: rules never ask it for more."""

    versions: dict[str, Any]

    def __init__(self, name: str, classes: Collection[str] | None = ()) -> None:
        self.name, self.classes, self.versions = name, classes, {}

    def find(self, image: np.ndarray) -> list[Found]:
        return []


def text(x: int, y: int, width: int, height: int, said: str = "", sure: float = 1.0, score: float = 0.9) -> Found:
    return Found("text", "text", upright_quad(x, y, x + width, y + height), score, said, sure)


def weigh(found: Sequence[Found], **settings: Any) -> tuple[list[dict[str, Any]], list[Weighed]]:
    config = DetectRegionsConfig(source="photos", **settings)
    return RuleBook(config, [Finds("text"), Finds("like", ("acme",))]).weigh(IMAGE, found)


def test_lines_of_a_block_become_one_region_and_are_read_from_the_top() -> None:
    regions, weighed = weigh([text(50, 130, 200, 30, "world"), text(52, 92, 210, 30, "hello"), text(400, 300, 90, 30)])
    assert [r["region_id"] for r in regions] == ["text-1", "text-2"]
    assert regions[0]["prompt"] == 'Refine the text "hello world".'
    assert regions[0]["box"] == [40, 82, 272, 170], "both lines, and 15 % of the shorter side around them"
    assert [w.fate for w in weighed] == ["merged", "merged", "kept"]
    assert {w.region_id for w in weighed} == {"text-1", "text-2"}


def test_what_is_perhaps_misread_is_not_asked_for() -> None:
    regions, _ = weigh([text(50, 90, 200, 30, "hcllo", sure=0.6)])
    assert regions[0]["prompt"] == "Refine the text."


@pytest.mark.parametrize(
    ("found", "fate"),
    [
        (text(50, 90, 200, 8), "small"),
        (text(0, 0, 600, 400), "large"),
        (text(50, 90, 200, 30, score=0.2), "score"),
    ],
)
def test_what_a_rule_leaves_out_says_why(found: Found, fate: str) -> None:
    regions, weighed = weigh([found])
    assert regions == []
    assert weighed[0].fate == fate
    assert weighed[0].why


def test_a_region_inside_one_with_a_reference_is_left_out() -> None:
    logo = Found("like", "acme", upright_quad(100, 100, 300, 200), 0.6, reference="/brand/acme.png")
    regions, weighed = weigh([text(120, 130, 150, 30, "ACME"), logo])
    assert [(r["region_id"], r["reference"]) for r in regions] == [("acme-1", "/brand/acme.png")]
    assert [w.fate for w in weighed] == ["covered", "kept"]


def test_limits_keep_the_best() -> None:
    found = [text(10, 10 + 60 * i, 100, 30, f"line {i}", score=0.7 + 0.05 * i) for i in range(5)]
    regions, weighed = weigh(found, rules={"text": Rule(most=2)})
    assert len(regions) == 2
    assert [w.fate for w in weighed] == ["too many"] * 3 + ["kept"] * 2
    assert len(weigh(found, max_regions=1)[0]) == 1


def test_a_million_boxes_no_numbers_and_boxes_outside_are_dropped_and_counted() -> None:
    wild = [text(i % 500, i % 300, 20, 20, score=(i % 1000) / 1000) for i in range(MAX_FOUND + 50)]
    wild += [text(5, 5, 20, 20, score=float("nan")), text(700, 5, 20, 20)]
    wild += [Found("text", "text", np.full((4, 2), np.inf), 0.5)]
    kept, dropped = well_formed(wild, 600, 400)
    assert len(kept) == MAX_FOUND
    assert min(one.score for one in kept) > 0.01, "the best are kept"
    assert dropped == {"no number": 2, "outside": 1, "too many": 50}


def test_boxes_that_reach_beyond_the_image_are_clipped() -> None:
    regions, _ = weigh([text(-20, -10, 200, 60, "edge")])
    assert regions[0]["box"][:2] == [0, 0]


def test_a_rule_for_what_nobody_finds_is_refused() -> None:
    config = DetectRegionsConfig(source="photos", rules={"acmee": Rule()})
    with pytest.raises(JobError, match="'acmee' is found by none of the detectors; they find acme, like, text"):
        RuleBook(config, [Finds("text"), Finds("like", ("acme",))])


def test_the_class_comes_before_the_detector() -> None:
    logo = Found("like", "acme", upright_quad(100, 100, 300, 200), 0.6, reference="/brand/acme.png")
    rules = {"acme": Rule(prompt="Refine the {class} logo.", seed=7, paste="box"), "like": Rule(prompt="Refine it.")}
    regions, _ = weigh([logo], rules=rules)
    assert (regions[0]["prompt"], regions[0]["seed"], regions[0]["paste"]) == ("Refine the acme logo.", 7, "box")


@pytest.mark.parametrize("prompt", ["Refine the {brand}.", "Refine {", " ", "{0}"])
def test_a_prompt_with_an_unknown_field_is_refused(prompt: str) -> None:
    with pytest.raises(ValidationError, match="prompt"):
        Rule(prompt=prompt)
