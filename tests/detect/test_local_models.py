"""The local stages on small random checkpoints of the real classes: what is loaded is what the hub would serve."""

from pathlib import Path

import numpy as np
import pytest
import torch

from refine_ops.detect.config import DinoGrounding, SamSegmentation
from refine_ops.detect.objects_dino import DinoGrounder
from refine_ops.detect.segment_sam import Sam
from refine_ops.errors import ItemError, JobError
from refine_ops.records import U8Image
from refine_ops.vlm.config import LocalVlm
from refine_ops.vlm.local import LocalChat
from refine_ops.vlm.questions import AnswerError, Question, Reply
from tests.support import tiny_checkpoints

torch.set_num_threads(1)
IMAGE: U8Image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
BOX = (10, 10, 60, 50)


class Verdict(Reply):
    defect: bool
    evidence: str


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


def test_sam2_gives_its_best_reading_and_how_far_its_rivals_differ(checkpoints: Path) -> None:
    sam = Sam(SamSegmentation(model=str(tiny_checkpoints.sam2(checkpoints / "sam2"))))
    found = sam.segment(IMAGE, BOX, "")
    assert found.mask.shape == IMAGE.shape[:2]
    assert found.mask.any()
    assert 0 <= found.ambiguity <= 1
    assert "sam2" in sam.name
    np.testing.assert_array_equal(sam.segment(IMAGE, BOX, "").mask, found.mask)


def test_sam3_takes_the_instance_of_the_phrase_that_fits_the_box(checkpoints: Path) -> None:
    folder = str(tiny_checkpoints.sam3(checkpoints / "sam3"))
    found = Sam(SamSegmentation(model=folder, threshold=0.0)).segment(IMAGE, BOX, "a cup")
    assert found.mask.shape == IMAGE.shape[:2]
    assert 0 <= found.ambiguity <= 1
    with pytest.raises(ItemError, match="no instance of 'a cup'") as caught:
        Sam(SamSegmentation(model=folder, threshold=1.0)).segment(IMAGE, BOX, "a cup")
    assert caught.value.reason == "segment.nothing"


def test_grounding_dino_boxes_lie_in_the_image_and_carry_the_phrase(checkpoints: Path) -> None:
    folder = str(tiny_checkpoints.grounding_dino(checkpoints / "dino"))
    dino = DinoGrounder(DinoGrounding(model=folder, threshold=0.0, text_threshold=0.0))
    found = dino.ground(IMAGE, None, "the cup")
    assert found
    assert all(g.description == "the cup" for g in found)
    assert all(0 <= g.box[0] < g.box[2] <= 90 and 0 <= g.box[1] < g.box[3] <= 70 for g in found)
    assert [g.confidence for g in found] == sorted((g.confidence for g in found), reverse=True)
    pair = dino.ground(IMAGE, IMAGE[:, ::-1], "the cup")
    assert len(pair) == 1
    assert pair[0].reference_box is not None
    with pytest.raises(ItemError, match="needs a 'description'"):
        dino.ground(IMAGE, IMAGE, "")
    strict = DinoGrounder(DinoGrounding(model=folder, threshold=1.0))
    with pytest.raises(ItemError, match=r"above 1\.0"):
        strict.ground(IMAGE, None, "the cup")


def test_a_local_vlm_answers_in_the_schema_or_is_refused_with_what_it_said(checkpoints: Path) -> None:
    text = '{"defect":true,"evidence":"a smear"}'
    question = Question("You look at images.", "Is it damaged?", (IMAGE, IMAGE[:40]))
    folder = tiny_checkpoints.qwen_vl(checkpoints / "qwen")
    babbling = LocalChat(LocalVlm(model=str(folder), max_new_tokens=8))
    with pytest.raises(AnswerError) as caught:
        babbling.ask(question, Verdict)
    assert caught.value.reason == "vlm.unparsable"
    tiny_checkpoints.teach(folder, babbling.inputs(question, Verdict), text)
    taught = LocalChat(LocalVlm(model=str(folder), max_new_tokens=60))
    assert taught.ask(question, Verdict) == Verdict(defect=True, evidence="a smear")
    assert taught.usage.calls == 1
    assert taught.usage.output_tokens == len(text) + 1


def test_repeats_of_a_local_vlm_are_sampled_by_their_seed(checkpoints: Path) -> None:
    chat = LocalChat(LocalVlm(model=str(tiny_checkpoints.qwen_vl(checkpoints / "sampled")), max_new_tokens=12))

    def said(repeat: int, temperature: float) -> str:
        with pytest.raises(AnswerError) as caught:
            chat.ask(Question("You look.", "Is it damaged?", (IMAGE,), repeat, temperature), Verdict)
        return caught.value.raw

    assert said(0, 1.0) == said(0, 1.0)
    assert len({said(repeat, 1.0) for repeat in range(3)}) == 3
    assert len({said(repeat, 0.0) for repeat in range(2)}) == 1


def test_what_is_no_checkpoint_stops_the_job_and_nothing_is_downloaded(checkpoints: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="allow_hub"):
        Sam(SamSegmentation(model="facebook/sam3"))
    with pytest.raises(JobError, match="cannot be opened"):
        Sam(SamSegmentation(model=str(tmp_path)))
    dino = tiny_checkpoints.grounding_dino(checkpoints / "not-sam")
    with pytest.raises(JobError, match="expected a sam2 or sam3"):
        Sam(SamSegmentation(model=str(dino)))


def test_pickled_weights_are_refused(checkpoints: Path) -> None:
    folder = tiny_checkpoints.sam2(checkpoints / "pickled")
    torch.save({"w": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(JobError, match="safetensors"):
        Sam(SamSegmentation(model=str(folder)))
