"""Validation: the band, two separate questions with evidence, clean controls."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refine_ops.data.config import ValidateSettings
from refine_ops.data.stages.validate import Rejected, validate
from refine_ops.records import Mask, U8Image
from refine_ops.vlm.config import OpenAiVlm
from refine_ops.vlm.openai import OpenAiChat
from tests.support.servers.openai_server import Answer, Server, says, serve

pytestmark = pytest.mark.processes

CLEAN: U8Image = np.full((60, 80, 3), 120, np.uint8)
MASK: Mask = np.zeros((60, 80), bool)
MASK[20:40, 30:60] = True
DAMAGED: U8Image = np.where(MASK[:, :, None], np.uint8(150), CLEAN)
SETTINGS = ValidateSettings(control_share=0.0)


def run(
    server: Server | None, cache: Path, settings: ValidateSettings = SETTINGS, damaged: U8Image = DAMAGED
) -> dict[str, Any]:
    judge = None
    if server is not None:
        judge = OpenAiChat(OpenAiVlm(base_url=server.base_url, model="judge", cache=str(cache), backoff_s=0.01))
    return validate(settings, judge, damaged, CLEAN, MASK, "the dial", np.random.default_rng(0))


def answers(defect: bool, plausible: bool) -> Any:
    def reply(body: dict[str, Any], _: int) -> Answer:
        if body["response_format"]["json_schema"]["name"] == "_DefectReply":
            return says(defect=defect, evidence="smeared digits")
        return says(plausible=plausible, evidence="the dial is still there")

    return reply


def test_the_band_measures_the_mean_change_over_the_mask(tmp_path: Path) -> None:
    assert run(None, tmp_path) == {"change": 30.0}
    for change, reason in ((1, "validate.change_too_small"), (130, "validate.change_too_large")):
        damaged = np.where(MASK[:, :, None], np.uint8(120 + change), CLEAN)
        with pytest.raises(Rejected, match=f"{change}.00/255") as caught:
            run(None, tmp_path, damaged=damaged)
        assert caught.value.reason == reason
        assert caught.value.scores == {"change": float(change)}


def test_a_band_failure_costs_no_question(tmp_path: Path) -> None:
    with serve(answers(True, True)) as server:
        with pytest.raises(Rejected):
            run(server, tmp_path, damaged=CLEAN)
        assert server.requests == []


def test_two_questions_are_asked_apart_with_the_region_outlined(tmp_path: Path) -> None:
    with serve(answers(True, True)) as server:
        scores = run(server, tmp_path)
    assert scores == {
        "change": 30.0, "defect": True, "defect_evidence": "smeared digits",
        "plausible": True, "plausible_evidence": "the dial is still there",
    }  # fmt: skip
    assert len(server.requests) == 2
    assert "the dial" in server.text(1)
    assert "the dial" not in server.text(0), "the defect question must not be led"
    plain, outlined = server.images(0)
    np.testing.assert_array_equal(plain, DAMAGED)
    changed = (outlined != DAMAGED).any(axis=2)
    assert changed.any()
    assert not (changed & MASK).any(), "the outline must not cover what is judged"


@pytest.mark.parametrize(
    ("defect", "plausible", "reason"),
    [(False, True, "validate.no_defect"), (True, False, "validate.implausible")],
)
def test_a_no_to_either_question_rejects_with_the_evidence(
    tmp_path: Path, defect: bool, plausible: bool, reason: str
) -> None:
    with serve(answers(defect, plausible)) as server, pytest.raises(Rejected) as caught:
        run(server, tmp_path)
    assert caught.value.reason == reason
    assert caught.value.scores["defect_evidence"] in ("smeared digits",)
    assert str(caught.value).endswith("smeared digits" if not defect else "the dial is still there")


def test_controls_show_the_clean_crop_and_are_counted_whatever_becomes_of_the_sample(tmp_path: Path) -> None:
    settings = ValidateSettings(control_share=1.0)

    def sees_defects_where_there_are_none(body: dict[str, Any], number: int) -> Answer:
        return says(defect=number == 0, evidence="e")

    with serve(sees_defects_where_there_are_none) as server, pytest.raises(Rejected) as caught:
        run(server, tmp_path, settings)
    np.testing.assert_array_equal(server.images(0)[0], CLEAN)
    np.testing.assert_array_equal(server.images(1)[0], DAMAGED)
    assert caught.value.reason == "validate.no_defect"
    assert caught.value.scores["control_defect"] is True
