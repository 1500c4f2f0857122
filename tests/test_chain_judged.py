"""What the judge does not accept keeps the source's own pixels; the rest is as if that had never been asked for."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from refine_ops.chain import Judged, refine_image, refine_opened, seed_of
from refine_ops.config import AlignSettings, RefineSettings, WriteSettings
from refine_ops.errors import ItemError
from refine_ops.image.read import decode
from refine_ops.judge.gate import Curve, Gate
from refine_ops.judge.judge import Judge, held_message
from refine_ops.opened import open_item
from refine_ops.records import Conditioning, Item, Patch, Region
from tests.support.made_files import jpeg, png

FIXED = Judge()
"""No gate was calibrated: the fixed rules alone."""
AS_MADE = AlignSettings(geometry=False, tone=False)
"""What these patches do is meant: it is not drift to be undone."""
SETTINGS = RefineSettings(align=AS_MADE)
LEFT, RIGHT = (40, 60, 100, 120), (260, 180, 330, 250)


@dataclass(frozen=True, slots=True)
class Work:
    item: Conditioning

    @property
    def bucket(self) -> Hashable:
        return self.item.image.shape[:2]


class Scripted:
    """A refiner that does what the prompt says: a word, or several, one per candidate."""

    grid_px = 8
    focus_pixels = 160 * 160
    tile_zoom = 0.0
    reference = "as_given"

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def batch_size(self, size: tuple[int, int]) -> int:
        return 1

    def prepare(self, item: Conditioning) -> Work:
        return Work(item)

    def refine_prepared(self, batch: Sequence[Work]) -> list[Patch]:
        return [self._patch(work.item) for work in batch]

    def _patch(self, item: Conditioning) -> Patch:
        self.seeds.append(item.seed)
        words = item.prompt.split()
        view = item.image.astype(np.float32) / 255
        made: dict[str, Callable[[], np.ndarray]] = {
            "brighter": lambda: np.clip(view + 0.08, 0, 1),
            "little": lambda: np.clip(view + 0.03, 0, 1),
            "soft": lambda: cv2.GaussianBlur(view, (0, 0), 6),
            "nan": lambda: np.full_like(view, np.nan),
            "flat": lambda: np.full_like(view, 0.5),
            "same": lambda: view,
        }
        word = words[min(item.candidate, len(words) - 1)]
        pixels = made[word]().astype(np.float32)
        return Patch(pixels, np.ones(item.mask.shape, bool), 1, roundtrip=pixels if word == "same" else None)


@pytest.fixture(scope="module")
def picture(photo: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(photo[20:320, 60:460])


def made(prompts: dict[str, str], **more: object) -> Item:
    boxes = {"left": LEFT, "right": RIGHT}
    return Item("a", "i", "i", tuple(Region(n, p, box=boxes[n], **more) for n, p in prompts.items()), row=0)  # type: ignore[arg-type]


def judged(
    item: Item,
    data: bytes,
    settings: RefineSettings = SETTINGS,
    judge: Judge | None = FIXED,
    refiner: Scripted | None = None,
) -> Judged:
    return refine_opened(item, open_item(item, {"i": data}, settings), refiner or Scripted(), settings, judge)


FILES = {"png": png, "jpeg": lambda rgb: jpeg(rgb, "420"), "jpeg-444": lambda rgb: jpeg(rgb, "444")}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_a_region_that_is_not_accepted_is_the_sources_own_bit_for_bit(
    picture: np.ndarray, kind: str, order: tuple[str, str]
) -> None:
    """The oracle is the same file refined without that region: equal bytes, not only equal pixels."""
    data = FILES[kind](picture)
    prompts = {"left": "brighter", "right": "soft"}
    found = judged(made({name: prompts[name] for name in order}), data)
    assert found.published is not None
    accepted = {r.region_id: r.accepted for r in found.regions}
    assert accepted == {"left": True, "right": False}
    alone = refine_image(made({"left": "brighter"}), {"i": data}, Scripted(), SETTINGS)
    assert found.published.data == alone.data
    proof = found.published.verification
    assert proof == alone.verification, "the proof allows nothing where the other region lies"
    before, after = (decode(d, name="i", limits=SETTINGS.limits).rgb for d in (data, found.published.data))
    x0, y0, x1, y1 = RIGHT
    assert np.array_equal(before[y0 - 20 : y1 + 20, x0 - 20 : x1 + 20], after[y0 - 20 : y1 + 20, x0 - 20 : x1 + 20])
    x0, y0, x1, y1 = LEFT
    assert (before[y0:y1, x0:x1] != after[y0:y1, x0:x1]).mean() > 0.9


@pytest.mark.parametrize("kind", FILES)
def test_the_candidate_is_the_file_that_would_have_been_published(picture: np.ndarray, kind: str) -> None:
    data, item = FILES[kind](picture), made({"left": "brighter", "right": "soft"})
    found = judged(item, data)
    assert found.candidate is not None
    assert found.candidate.data == refine_image(item, {"i": data}, Scripted(), SETTINGS).data
    assert found.candidate.verification.changed_outside_px == 0


def test_where_everything_is_accepted_the_judge_changes_nothing(picture: np.ndarray) -> None:
    data, item = jpeg(picture), made({"left": "brighter", "right": "little"})
    found = judged(item, data)
    assert found.published is not None
    assert found.candidate is None
    assert found.published.data == refine_image(item, {"i": data}, Scripted(), SETTINGS).data
    assert all(r.evidence is not None and r.ruling is not None for r in found.regions)


@pytest.mark.parametrize(
    ("word", "reason"),
    [("nan", "judge.not_finite"), ("flat", "patch.blank"), ("soft", "judge.detail_lost"), ("same", "judge.unchanged")],
)
def test_a_bad_patch_is_held_and_its_company_published(picture: np.ndarray, word: str, reason: str) -> None:
    found = judged(made({"left": word, "right": "brighter"}), png(picture))
    assert found.published is not None
    assert [r.ruling.reason for r in found.regions if r.ruling] == [reason, ""]
    assert '"left": ' in held_message(found.regions)
    assert "right" not in held_message(found.regions)


@pytest.mark.parametrize("word", ["nan", "flat"])
def test_a_patch_that_cannot_be_pasted_leaves_no_candidate(picture: np.ndarray, word: str) -> None:
    found = judged(made({"left": word}), png(picture))
    assert (found.published, found.candidate) == (None, None)


def test_without_a_judge_values_that_are_no_numbers_are_an_error(picture: np.ndarray) -> None:
    with pytest.raises(ItemError) as error:
        judged(made({"left": "nan"}), png(picture), judge=None)
    assert error.value.reason == "patch.not_finite"


def test_an_unchanged_region_passes_where_that_may_be(picture: np.ndarray) -> None:
    allowed = RefineSettings(align=AS_MADE, write=WriteSettings(allow_unchanged=True))
    found = judged(made({"left": "same"}), png(picture), allowed)
    assert found.published is not None
    assert found.published.verification.changed_px == 0
    assert judged(made({"left": "same"}), png(picture)).published is None


def test_candidates_run_until_one_is_accepted(picture: np.ndarray) -> None:
    item, settings = (
        made({"left": "soft nan brighter little", "right": "little"}),
        RefineSettings(align=AS_MADE, candidates=6),
    )
    refiner = Scripted()
    found = judged(item, png(picture), settings, refiner=refiner)
    left, right = found.regions
    assert (left.candidates, left.taken, left.accepted) == (3, 2, True)
    assert (right.candidates, right.taken, right.accepted) == (1, 0, True)
    assert refiner.seeds == [seed_of(item, item.regions[0], n) for n in range(3)] + [seed_of(item, item.regions[1])]
    assert left.seed == refiner.seeds[2]
    assert len(set(refiner.seeds)) == 4
    plain = refine_image(made({"left": "brighter", "right": "little"}), {"i": png(picture)}, Scripted(), SETTINGS)
    assert found.published is not None
    assert found.published.data == plain.data, "what was tried before leaves no trace"


def test_a_candidate_is_compared_with_those_before_it(picture: np.ndarray) -> None:
    """Whatever agrees scores higher here than the first, which has nothing to agree with."""
    gate = Gate("tiny", 0.0, {"candidates": Curve((-1.0, 1.0), (-1.0, 1.0), -5.0)}, (), -9.0, {}, "f")
    for words in ("brighter", "brighter little", "brighter nan little"):
        settings = RefineSettings(align=AS_MADE, candidates=len(words.split()), stop="best")
        (left,) = judged(made({"left": words}), png(picture), settings, Judge({"model": gate})).regions
        assert left.taken == left.candidates - 1
        assert left.evidence is not None
        agreement = left.evidence.candidates
        assert agreement is None if words == "brighter" else agreement is not None and agreement > 0.7


def test_none_of_all_candidates_accepted_is_held(picture: np.ndarray) -> None:
    found = judged(made({"left": "soft"}), png(picture), RefineSettings(align=AS_MADE, candidates=4))
    (left,) = found.regions
    assert (found.published, left.candidates, left.taken, left.accepted) == (None, 4, 0, False)
    assert found.candidate is not None
    assert "(4 candidates)" in held_message(found.regions)


@pytest.mark.parametrize("words", ["little brighter soft", "brighter soft little", "soft nan brighter"])
def test_the_best_of_all_is_taken_by_the_gates_score(picture: np.ndarray, words: str) -> None:
    """A gate that likes change: the brighter, the better."""
    gate = Gate("tiny", 0.0, {"change": Curve((0.0, 100.0), (0.0, 100.0), 0.0)}, (), 1.0, {}, "f")
    settings = RefineSettings(align=AS_MADE, candidates=3, stop="best")
    found = judged(made({"left": words}), png(picture), settings, Judge({"model": gate}))
    (left,) = found.regions
    assert (left.candidates, left.taken, left.accepted) == (3, words.split().index("brighter"), True)
    assert found.published is not None
    alone = refine_image(made({"left": "brighter"}), {"i": png(picture)}, Scripted(), SETTINGS)
    assert found.published.data == alone.data


def test_a_gate_holds_what_scores_too_low(picture: np.ndarray) -> None:
    gate = Gate("tiny", 0.0, {"change": Curve((0.0, 100.0), (0.0, 100.0), 0.0)}, (), 12.0, {}, "f")
    found = judged(made({"left": "little", "right": "brighter"}), png(picture), SETTINGS, Judge({"model": gate}))
    assert [r.accepted for r in found.regions] == [False, True]
    ruling = found.regions[0].ruling
    assert ruling is not None
    assert ruling.reason == "judge.score"
    assert ruling.score is not None
    assert 0 < ruling.score < 12


def test_seeds_of_candidates_come_from_the_ids_alone() -> None:
    item = made({"left": "x"}, seed=7)
    (region,) = item.regions
    assert seed_of(item, region) == 7
    assert len({seed_of(item, region, n) for n in range(16)}) == 16
    assert seed_of(item, region, 3) == seed_of(made({"left": "y"}, seed=7), region, 3)
