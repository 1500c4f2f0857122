"""Grades end to end: a real HTTP endpoint with honest, adversarial and broken answers, and a local VLM class."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refine_ops.eval.config import GraderSettings
from refine_ops.eval.metrics.vlm_grades import DIMENSIONS, open_grader
from refine_ops.vlm.config import LocalVlm, OpenAiVlm
from refine_ops.vlm.openai import EndpointDown
from tests.support import tiny_checkpoints
from tests.support.case_batch import make_batch
from tests.support.servers.openai_server import Answer, decode_data_url, says, serve

pytestmark = pytest.mark.processes

NAMES = [d.name for d in DIMENSIONS]
FIELDS = ("visual_quality", "naturalness", "aesthetics", "detail", "faithfulness")


def grades(*values: float) -> Answer:
    return says(fault="none", **dict(zip(FIELDS, values, strict=True)))


def settings(base_url: str, folder: Path, **changes: Any) -> GraderSettings:
    vlm = OpenAiVlm(base_url=base_url, model="grader-1", cache=str(folder), backoff_s=0.01, requests=2, timeout_s=5)
    return GraderSettings(vlm=vlm, **changes)


def detail_grader(body: dict[str, Any], number: int) -> Answer:
    """A scripted grader that looks: the more of AFTER is flat, the lower its grades."""
    text, *pictures = body["messages"][1]["content"]
    after = pictures["picture 2 is AFTER" in text["text"]]
    flat = np.mean(np.diff(decode_data_url(after["image_url"]["url"]).astype(int), axis=1) == 0)
    return grades(*[5 - 4 * float(flat)] * 5)


def test_scores_are_means_over_repeats_and_dimensions_stay_apart(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        return grades(1.5, 2.0, 2.5, 3.0 + body["seed"], 4.0)

    with serve(answer) as server:
        meter = open_grader(settings(server.base_url, tmp_path, repeats=3))
        found = meter.measure(make_batch())
    assert [found[n][0] for n in NAMES] == pytest.approx([1.5, 2.0, 2.5, 4.0, 4.0])
    assert len(server.requests) == 2 * (3 + 1)
    assert found["grade_order"] == pytest.approx([0.2, 0.2]), "repeat 0 said 3.0 where the mean is 4.0"


def test_the_grade_sees_the_expanded_crop_before_and_after_and_the_request(tmp_path: Path) -> None:
    batch = make_batch()
    outputs = batch.inputs.copy()
    outputs[:, 60:100, 110:150] = 255
    with serve(lambda body, number: grades(3, 3, 3, 3, 3)) as server:
        open_grader(settings(server.base_url, tmp_path, repeats=1)).measure(replace(batch, outputs=outputs))
    x0, y0, x1, y1 = 80 - 24, 32 - 24, 176 + 24, 128 + 24
    before, after = server.images(0)
    np.testing.assert_array_equal(before, batch.inputs[0][y0:y1, x0:x1])
    np.testing.assert_array_equal(after, outputs[0][y0:y1, x0:x1])
    assert batch.instruction in server.text(0)
    swapped_after, swapped_before = server.images(1)
    np.testing.assert_array_equal(swapped_after, after)
    np.testing.assert_array_equal(swapped_before, before)
    assert "Picture 1 is AFTER" in server.text(1)


def test_controls_rank_under_a_grade_that_looks(tmp_path: Path) -> None:
    batch = make_batch()
    with serve(detail_grader) as server:
        meter = open_grader(settings(server.base_url, tmp_path, repeats=1))
        truth = meter.measure(replace(batch, outputs=batch.target))
        blank = np.where(batch.mask[..., None], 128, batch.inputs).astype(np.uint8)
        damaged = meter.measure(replace(batch, outputs=blank))
    assert (truth["grade_vq"] > damaged["grade_vq"]).all()
    assert truth["grade_order"].max() == 0


BROKEN: list[Callable[[], Answer]] = [
    lambda: Answer("I would say it is quite good, 4 out of 5."),
    lambda: grades(5.5, 3, 3, 3, 3),
    lambda: grades(-1, 3, 3, 3, 3),
    lambda: says(fault="none", visual_quality=3),
    lambda: Answer(json.dumps({"fault": "x", **dict.fromkeys(FIELDS, "five")})),
    lambda: Answer(
        '{"fault": "", "visual_quality": NaN, "naturalness": 3, "aesthetics": 3, "detail": 3, "faithfulness": 3}'
    ),
    lambda: Answer(json.dumps({"fault": "", **dict.fromkeys(FIELDS, 3), "overall": 5})),
    lambda: Answer("", finish_reason="length"),
    lambda: Answer(None, refusal="I cannot grade this"),
]


@pytest.mark.parametrize("answer", BROKEN)
def test_what_is_no_grade_is_never_a_number(tmp_path: Path, answer: Callable[[], Answer]) -> None:
    with serve(lambda body, number: answer()) as server:
        found = open_grader(settings(server.base_url, tmp_path, repeats=2)).measure(make_batch())
    assert all(np.isnan(v).all() for v in found.values())


def test_readable_repeats_count_and_unreadable_ones_do_not(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], number: int) -> Answer:
        return Answer("no") if body["seed"] == 1 else grades(2, 2, 2, 2, 2 + 2 * (body["seed"] == 2))

    with serve(answer) as server:
        found = open_grader(settings(server.base_url, tmp_path, repeats=3, order_check=False)).measure(make_batch())
    assert found["grade_faith"].tolist() == [3, 3]
    assert "grade_order" not in found


def test_answers_are_asked_for_once(tmp_path: Path) -> None:
    with serve(lambda body, number: grades(3, 3, 3, 3, 3)) as server:
        meter = open_grader(settings(server.base_url, tmp_path, repeats=2))
        first = meter.measure(make_batch())
        asked = len(server.requests)
        again = open_grader(settings(server.base_url, tmp_path, repeats=2)).measure(make_batch())
        assert len(server.requests) == asked
        other = replace(make_batch(), instruction="Refine the helmet")
        open_grader(settings(server.base_url, tmp_path, repeats=2)).measure(other)
        assert len(server.requests) == 2 * asked
    assert {k: v.tolist() for k, v in first.items()} == {k: v.tolist() for k, v in again.items()}


def test_an_endpoint_that_stays_down_stops_the_job(tmp_path: Path) -> None:
    with serve(lambda body, number: Answer(status=503)) as server:
        meter = open_grader(settings(server.base_url, tmp_path, repeats=1))
        with pytest.raises(EndpointDown, match="no answer in 2 attempts"):
            meter.measure(make_batch())


def test_an_endpoint_that_takes_no_request_at_all_stops_the_job(tmp_path: Path) -> None:
    refusal = Answer(status=400, raw=b"response_format: unknown keyword")
    with serve(lambda body, number: refusal) as server:
        meter = open_grader(settings(server.base_url, tmp_path, repeats=1))
        with pytest.raises(EndpointDown, match=r"unknown keyword.*grey pictures too"):
            meter.measure(make_batch())
    assert len(server.requests) == 2


def test_a_picture_that_is_refused_stays_unscored_and_the_others_are_graded(tmp_path: Path) -> None:
    batch = make_batch()
    outputs = batch.inputs.copy()
    outputs[0, 60:100, 110:150] = 255

    def answer(body: dict[str, Any], number: int) -> Answer:
        _, *pictures = body["messages"][1]["content"]
        white = any((decode_data_url(p["image_url"]["url"]) == 255).all(2).sum() >= 1600 for p in pictures)
        return Answer(status=400, raw=b"content policy") if white else grades(3, 3, 3, 3, 3)

    with serve(answer) as server:
        meter = open_grader(settings(server.base_url, tmp_path, repeats=2, order_check=False))
        found = meter.measure(replace(batch, outputs=outputs))
    assert np.isnan(found["grade_vq"][0])
    assert found["grade_vq"][1] == 3
    assert len(server.requests) == 2 * 2 + 1, "one more, to tell a picture from the form of the request"


def test_repeats_are_sampled_so_that_they_can_differ(tmp_path: Path) -> None:
    with serve(lambda body, number: grades(3, 3, 3, 3, 3)) as server:
        open_grader(settings(server.base_url, tmp_path, repeats=2, order_check=False)).measure(make_batch())
    assert {(r["seed"], r["temperature"]) for r in server.requests} == {(0, 0.7), (1, 0.7)}


def test_reference_based_cases_are_left_alone_unless_asked_for(tmp_path: Path) -> None:
    batch = replace(make_batch(), setting="reference")
    with serve(lambda body, number: grades(3, 3, 3, 3, 3)) as server:
        assert np.isnan(open_grader(settings(server.base_url, tmp_path)).measure(batch)["grade_vq"]).all()
        assert not server.requests
        asked = open_grader(settings(server.base_url, tmp_path, reference_based=True)).measure(batch)
    assert asked["grade_vq"].tolist() == [3, 3]


def test_a_local_vlm_that_cannot_answer_leaves_everything_unscored(tmp_path: Path) -> None:
    folder = tiny_checkpoints.qwen_vl(tmp_path / "vlm")
    vlm = LocalVlm(model=str(folder), max_new_tokens=4, max_side_px=64)
    meter = open_grader(GraderSettings(vlm=vlm, repeats=1, order_check=False))
    assert np.isnan(meter.measure(make_batch())["grade_vq"]).all()
    assert meter.chat.usage.calls == 2


def test_the_schema_sent_is_strict_and_says_the_range_in_words(tmp_path: Path) -> None:
    with serve(lambda body, number: grades(3, 3, 3, 3, 3)) as server:
        open_grader(settings(server.base_url, tmp_path, repeats=1)).measure(make_batch())
    sent = server.requests[0]["response_format"]["json_schema"]
    properties = sent["schema"]["properties"]
    assert sent["strict"] is True
    assert set(properties["fault"]) == {"title", "type"}
    for field in FIELDS:
        assert set(properties[field]) == {"title", "type", "description"}
        assert properties[field]["description"] == "1 to 5"
