"""One item between its inputs and its result: whose turn it is, what later regions see, and what is proven."""

from dataclasses import replace

import numpy as np
import pytest

from refine_ops.chain import Refinement, refine_opened, seed_of
from refine_ops.config import RefineSettings
from refine_ops.errors import ItemError
from refine_ops.image.read import decode_rgb
from refine_ops.opened import open_item
from refine_ops.records import Conditioning, Item, Patch, Region
from tests.support.made_files import png
from tests.support.pixels import KnownRefiner, picture

LEFT = Region("left", "darken it", box=(20, 20, 50, 50))
RIGHT = Region("right", "darken it", box=(44, 30, 80, 60))
SETTINGS = RefineSettings.model_validate({"paste": {"confine": "region"}})


def item(*regions: Region) -> Item:
    return Item("an-item", "image", "out.png", regions, row=0)


def begun(*regions: Region, settings: RefineSettings = SETTINGS) -> Refinement:
    one = item(*regions)
    return Refinement(one, open_item(one, {"image": png(picture())}, settings), settings, KnownRefiner())


def patch_for(given: Conditioning) -> Patch:
    (patch,) = KnownRefiner().refine_prepared([KnownRefiner().prepare(given)])
    return patch


def test_regions_take_turns_and_a_later_one_sees_what_an_earlier_one_left() -> None:
    together, alone = begun(LEFT, RIGHT), begun(RIGHT)
    given = together.conditioning()
    assert together.turn == ("left", 1)
    assert not together.complete
    together.absorb(patch_for(given))
    second, untouched = together.conditioning(), alone.conditioning()
    assert together.turn == ("right", 1)
    assert second.image.shape == untouched.image.shape
    assert second.image.mean() < untouched.image.mean(), "the darkened left reaches into the right one's crop"
    together.absorb(patch_for(second))
    assert together.complete


def test_asking_twice_gives_the_same_turn_and_a_patch_needs_one() -> None:
    refinement = begun(LEFT)
    with pytest.raises(RuntimeError, match="before conditioning"):
        refinement.absorb(Patch(np.zeros((8, 8, 3), np.float32), np.ones((8, 8), bool), 1))
    first, again = refinement.conditioning(), refinement.conditioning()
    assert np.array_equal(first.image, again.image)
    assert first.seed == again.seed
    refinement.absorb(patch_for(first))
    with pytest.raises(RuntimeError, match="before conditioning"):
        refinement.absorb(patch_for(first))


def test_a_regions_seed_is_its_own_whatever_stands_beside_it() -> None:
    company = [begun(LEFT, RIGHT), begun(LEFT)]
    assert len({refinement.conditioning().seed for refinement in company}) == 1
    assert seed_of(item(LEFT), LEFT) != seed_of(item(RIGHT), RIGHT)
    given = replace(LEFT, seed=7)
    assert begun(given).conditioning().seed == seed_of(item(given), given)


def test_what_is_finished_is_proven_and_recorded_region_by_region() -> None:
    one = item(LEFT, RIGHT)
    opened = open_item(one, {"image": png(picture())}, SETTINGS)
    judged = refine_opened(one, opened, KnownRefiner(), SETTINGS)
    finished = judged.published
    assert finished is not None
    assert [(r.region_id, r.seed, r.tiles) for r in finished.regions] == [
        (region.region_id, seed_of(one, region), 1) for region in one.regions
    ]
    assert finished.verification.changed_outside_px == 0
    assert finished.verification.changed_px > 0
    after, before = decode_rgb(finished.data, name="", limits=SETTINGS.limits), picture()
    changed = (after != before).any(axis=2)
    assert changed.any()
    changed[20:60, 20:80] = False
    assert not changed.any()


def test_a_refinement_that_changed_nothing_is_not_published_unless_that_may_be() -> None:
    class Leaves(KnownRefiner):
        focus_pixels = 96 * 128

        def _patch(self, item: Conditioning) -> Patch:
            return Patch(item.image.astype(np.float32) / np.float32(255), np.ones(item.mask.shape, bool), 1)

    whole = SETTINGS.model_copy(update={"focus": SETTINGS.focus.switched_off()})
    one = item(LEFT)
    opened = open_item(one, {"image": png(picture())}, whole)
    with pytest.raises(ItemError, match="allow_unchanged"):
        refine_opened(one, opened, Leaves(), whole)
