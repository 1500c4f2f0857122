"""Prompt embeddings: image tokens must have Qwen2.5-VL's three-dimensional positions."""

from typing import Any

import pytest
import torch

from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.model.doctor.selftest import image_positions
from refine_ops.model.load import Networks
from refine_ops.model.run.prompts import PromptEncoder


@pytest.fixture
def networks() -> Networks:
    return Networks.of(random_pipeline(seed=3))


@torch.no_grad()
def test_embeddings_have_three_dimensional_positions(networks: Networks, make_refiner: Any, make_item: Any) -> None:
    item = make_refiner().prepare(make_item(0, reference=(40, 90)))
    encoder = PromptEncoder(networks, torch.device("cpu"))
    ours, mask = encoder([item.prompt], [(item.pixel_values, item.grid_thw)], item.bucket.text)
    assert mask.all()
    ids, model = item.prompt.ids, networks.text_encoder
    arguments = {
        "input_ids": ids[None],
        "attention_mask": torch.ones_like(ids)[None],
        "pixel_values": item.pixel_values,
        "image_grid_thw": item.grid_thw,
        "output_hidden_states": True,
    }
    positions = image_positions(ids, item.grid_thw, model.config.image_token_id)
    right = model(**arguments, position_ids=positions).hidden_states[-1][:, networks.template_tokens :]
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-6)
    flat = torch.arange(len(ids)).expand(3, 1, -1)
    wrong = model(**arguments, position_ids=flat).hidden_states[-1][:, networks.template_tokens :]
    assert (wrong - right).abs().max() > 0.05, "positions must matter, or this test could not fail"


def test_padding_changes_no_token(networks: Networks, make_refiner: Any, make_item: Any) -> None:
    exact = make_refiner().prepare(make_item(0))
    padded = make_refiner(batch_size=2).prepare(make_item(0))
    assert padded.bucket.text % 32 == 0
    assert padded.bucket.text > exact.bucket.text
    encoder = PromptEncoder(networks, torch.device("cpu"))
    with torch.no_grad():
        short, _ = encoder([exact.prompt], [(exact.pixel_values, exact.grid_thw)], exact.bucket.text)
        pictures = [(padded.pixel_values, padded.grid_thw)] * 2
        long, mask = encoder([padded.prompt] * 2, pictures, padded.bucket.text)
    assert mask.sum(dim=1).tolist() == [exact.bucket.text] * 2
    torch.testing.assert_close(long[1, : exact.bucket.text], short[0], rtol=0, atol=1e-5)
    assert (long[:, exact.bucket.text :] == 0).all()


def test_equal_prompts_over_equal_thumbnails_are_encoded_once(
    networks: Networks, make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    forward = type(networks.text_encoder.model).forward

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["input_ids"].shape)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(networks.text_encoder.model), "forward", counting)
    refiner = make_refiner(batch_size=2)
    refiner.refine([make_item(0), make_item(0)])
    refiner.refine([make_item(0)])
    assert len(calls) == 1
    refiner.refine([make_item(0, prompt="Refine the label.")])
    refiner.refine([make_item(1)])
    assert len(calls) == 3
