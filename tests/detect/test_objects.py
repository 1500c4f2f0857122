"""Grounding: annotations, a VLM over HTTP held to strict consistency, and the choice among objects."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refine_ops.data.config import BoxLimits
from refine_ops.data.source_manifest import SourceRow
from refine_ops.data.stages.ground import choose, ground
from refine_ops.detect.config import VlmGrounding
from refine_ops.detect.objects import Grounded
from refine_ops.detect.objects_vlm import VlmGrounder
from refine_ops.errors import ItemError
from refine_ops.records import U8Image
from refine_ops.vlm.config import OpenAiVlm
from refine_ops.vlm.openai import OpenAiChat
from refine_ops.vlm.questions import AnswerError
from tests.support.servers.openai_server import Answer, Server, says, serve

pytestmark = pytest.mark.processes

TARGET = np.random.default_rng(0).integers(0, 256, (400, 800, 3), np.uint8)
REFERENCE = np.random.default_rng(1).integers(0, 256, (500, 250, 3), np.uint8)
SUBJECT: dict[str, Any] = {
    "description": "the red kettle",
    "same_subject_in_target": True,
    "confidence": 0.95,
    "reference_box": {"x0": 100, "y0": 200, "x1": 900, "y1": 800},
    "target_box": {"x0": 250, "y0": 100, "x1": 500, "y1": 1000},
    "evidence": "same dent on the spout",
}
SAME = {"same": True, "evidence": "both show the dent"}


def grounder(server: Server, cache: Path, **settings: Any) -> VlmGrounder:
    vlm = OpenAiVlm(base_url=server.base_url, model="m", cache=str(cache), backoff_s=0.01, max_side_px=400)
    return VlmGrounder(OpenAiChat(vlm), VlmGrounding(vlm=vlm, **settings))


def by_schema(**answers: dict[str, Any]) -> Callable[[dict[str, Any], int], Answer]:
    """Answers by the name of the schema that is asked for, whatever the order of questions."""
    return lambda body, _: says(**answers[body["response_format"]["json_schema"]["name"]])


def test_a_pair_needs_a_match_a_box_and_two_crops_that_agree(tmp_path: Path) -> None:
    with serve(by_schema(_SubjectReply=SUBJECT, _SameReply=SAME)) as server:
        found = grounder(server, tmp_path).ground(TARGET, REFERENCE, "")
    assert found == [Grounded((200, 40, 400, 400), "the red kettle", 0.95, (25, 100, 225, 400))]
    pair, crops = server.images(0), server.images(1)
    assert [i.shape for i in pair] == [(400, 200, 3), (200, 400, 3)], "reference first, both shrunk to 400 px"
    np.testing.assert_array_equal(crops[0], REFERENCE[100:400, 25:225])
    np.testing.assert_array_equal(crops[1], TARGET[40:400, 200:400])
    assert "thousandths" in server.text(0)


@pytest.mark.parametrize(
    ("subject", "same", "reason"),
    [
        ({"same_subject_in_target": False}, {}, "ground.no_match"),
        ({"confidence": 0.79}, {}, "ground.unsure"),
        ({"confidence": 1.7}, {}, "ground.unsure"),
        ({}, {"same": False}, "ground.inconsistent"),
        ({"target_box": {"x0": 500, "y0": 0, "x1": 400, "y1": 10}}, {}, "ground.invalid_box"),
        ({"target_box": {"x0": 0, "y0": 0, "x1": 1001, "y1": 10}}, {}, "ground.invalid_box"),
        ({"reference_box": {"x0": -1, "y0": 0, "x1": 10, "y1": 10}}, {}, "ground.invalid_box"),
        ({"confidence": "high"}, {}, "vlm.unparsable"),
        ({"target_box": [250, 100, 500, 1000]}, {}, "vlm.unparsable"),
    ],
)
def test_doubtful_pairs_are_rejected(
    tmp_path: Path, subject: dict[str, Any], same: dict[str, Any], reason: str
) -> None:
    with serve(by_schema(_SubjectReply=SUBJECT | subject, _SameReply=SAME | same)) as server:
        with pytest.raises(ItemError) as caught:
            grounder(server, tmp_path).ground(TARGET, REFERENCE, "")
        assert caught.value.reason == reason
        if isinstance(caught.value, AnswerError):
            assert json.loads(caught.value.raw) == SUBJECT | subject


def test_objects_of_one_image_in_either_unit(tmp_path: Path) -> None:
    boxes = {"thousandths": (250, 500, 500, 1000), "pixels": (100, 100, 200, 200)}  # the image is shown at 400x200
    for unit, (x0, y0, x1, y1) in boxes.items():
        objects = {"objects": [{"description": "a sign", "box": {"x0": x0, "y0": y0, "x1": x1, "y1": y1}}]}
        with serve(by_schema(_ObjectsReply=objects)) as server:
            found = grounder(server, tmp_path / unit, coordinates=unit).ground(TARGET, None, "")
        assert found == [Grounded((200, 200, 400, 400), "a sign")]
        assert "400x200" in server.text()


def test_no_object_is_an_answer_and_a_rejection(tmp_path: Path) -> None:
    with serve(by_schema(_ObjectsReply={"objects": []})) as server, pytest.raises(ItemError) as caught:
        grounder(server, tmp_path).ground(TARGET, None, "")
    assert caught.value.reason == "ground.no_object"


def test_given_boxes_are_taken_or_refused_as_they_are() -> None:
    row = SourceRow("row", box=(10, 20, 110, 220), description="a cup", reference_box=(0, 0, 250, 500))
    assert ground(None, row, TARGET, None) == [Grounded((10, 20, 110, 220), "a cup")]
    assert ground(None, row, TARGET, REFERENCE)[0].reference_box == (0, 0, 250, 500)
    for bad in ((700, 0, 801, 10), (0, 390, 10, 401)):
        with pytest.raises(ItemError, match="does not lie in the image of 800x400"):
            ground(None, SourceRow("row", box=bad, description="a cup"), TARGET, None)


def test_one_usable_object_is_chosen_evenly_and_by_the_generator_alone() -> None:
    image: U8Image = np.zeros((100, 200, 3), np.uint8)
    usable = [Grounded((x, 10, x + 40, 60), f"object {x}") for x in (0, 50, 100)]
    others = [Grounded((0, 0, 8, 90), "too thin"), Grounded((0, 0, 200, 100), "everything")]
    drawn = [choose(usable + others, image, BoxLimits(), np.random.default_rng(i)).description for i in range(300)]
    assert all(80 < drawn.count(g.description) < 120 for g in usable)
    with pytest.raises(ItemError, match="of 2 boxes none"):
        choose(others, image, BoxLimits(), np.random.default_rng(0))
