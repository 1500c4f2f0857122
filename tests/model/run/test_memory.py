"""Out of device memory: smaller batches, then VAE tiling, then offload; remembered, recorded, and no item lost."""

from typing import Any

import numpy as np
import pytest
import torch

from refine_ops.errors import ItemError
from refine_ops.model.refiner import batch_for
from refine_ops.model.run.batch import BatchRunner
from refine_ops.model.run.memory import Footprint, Resident


def limit_memory(monkeypatch: pytest.MonkeyPatch, fits: Any) -> list[Footprint]:
    """Inject the allocator's error wherever `fits(footprint)` is false; returns the footprints tried."""
    tried: list[Footprint] = []
    run = BatchRunner.run

    def limited(self: BatchRunner, batch: Any, footprint: Footprint, masked_text: bool) -> torch.Tensor:
        tried.append(footprint)
        if not fits(footprint):
            raise torch.OutOfMemoryError("injected")
        return run(self, batch, footprint, masked_text)

    monkeypatch.setattr(BatchRunner, "run", limited)
    return tried


def test_half_the_batch_until_it_fits_and_stay_there(
    make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = limit_memory(monkeypatch, lambda footprint: footprint.batch_size <= 2)
    refiner = make_refiner(batch_size=8)
    items = [make_item(seed) for seed in range(5)]
    patches = refiner.refine(items)
    assert [footprint.batch_size for footprint in tried] == [8, 4, 2, 2, 2]
    assert {(patch.batch_size, patch.step_down) for patch in patches} == {(2, "batch 2")}
    assert refiner.batch_size(refiner.prepare(items[0]).bucket) == 2
    other = refiner.prepare(make_item(0, size=(64, 64))).bucket
    assert refiner.batch_size(other) == 8, "other sizes are not affected"
    refiner.refine(items[:1])
    assert tried[-1].batch_size == 2, "remembered"
    for item, patch in zip(items, patches, strict=True):
        np.testing.assert_array_equal(patch.pixels, refiner.refine([item])[0].pixels)


def test_then_tiling_then_offload(make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = limit_memory(monkeypatch, lambda footprint: footprint.offload)
    patch = make_refiner(batch_size=2).refine([make_item(0)])[0]
    assert patch.step_down == "batch 1, vae tiling, offload"
    assert tried == [
        Footprint(2), Footprint(1), Footprint(1, vae_tiling=True), Footprint(1, vae_tiling=True, offload=True)
    ]  # fmt: skip
    plain = make_refiner(batch_size=2)
    monkeypatch.undo()
    np.testing.assert_allclose(patch.pixels, plain.refine([make_item(0)])[0].pixels, rtol=0, atol=1e-5)


def test_what_is_remembered_goes_first(make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refiner = make_refiner(batch_size=2)
    refiner.refine([make_item(0)])
    run, held = BatchRunner.run, []

    def tight(self: BatchRunner, batch: Any, footprint: Footprint, masked_text: bool) -> Any:
        held.append(len(self._encoded))
        if len(held) == 1:
            raise torch.OutOfMemoryError("injected")
        return run(self, batch, footprint, masked_text)

    monkeypatch.setattr(BatchRunner, "run", tight)
    refiner.refine([make_item(0)])
    assert held == [1, 0], "encodings kept for candidates are on the device too"


def test_what_never_fits_is_one_items_error(make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(monkeypatch, lambda footprint: False)
    refiner = make_refiner(batch_size=2)
    with pytest.raises(ItemError, match="focus_pixels") as error:
        refiner.refine([make_item(0)])
    assert error.value.reason == "model.out_of_memory"


def test_values_that_are_not_finite_are_an_items_error(make_refiner: Any, make_item: Any) -> None:
    from refine_ops.model.doctor.random_weights import random_pipeline

    pipeline = random_pipeline(seed=3)
    with torch.no_grad():
        pipeline.transformer.proj_out.bias.fill_(float("nan"))
    with pytest.raises(ItemError, match="not finite") as error:
        make_refiner(pipeline=pipeline).refine([make_item(0)])
    assert error.value.reason == "model.not_finite"


def test_a_network_that_leaves_is_copied_once() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    wanted = network(torch.ones(2, 4))
    resident = Resident(network, torch.device("cpu"))
    resident.leave()
    copies = [parameter.data_ptr() for parameter in network.parameters()]
    resident.here()
    resident.leave()
    assert [parameter.data_ptr() for parameter in network.parameters()] == copies, "leaving again copies nothing"
    resident.here()
    torch.testing.assert_close(network(torch.ones(2, 4)), wanted, rtol=0, atol=0)


def test_an_encoder_that_is_away_stays_there_while_every_prompt_is_known(
    make_refiner: Any, make_item: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    back: list[Any] = []
    here = Resident.here

    def watched(self: Resident) -> None:
        if self._away:
            back.append(self._network)
        here(self)

    monkeypatch.setattr(Resident, "here", watched)
    refiner = make_refiner()
    encoder = refiner._networks.text_encoder
    limit_memory(monkeypatch, lambda footprint: footprint.offload)
    first = refiner.refine([make_item(0)])[0]
    back.clear()
    again = refiner.refine([make_item(0)])[0]
    assert encoder not in back
    np.testing.assert_array_equal(first.pixels, again.pixels)
    refiner.refine([make_item(1)])
    assert encoder in back, "another picture is another prompt"


@pytest.mark.parametrize(
    ("targets", "known", "conditions", "items"),
    [
        (4096, 2 * 4096, "joint", 1),
        (1024, 2 * 1024, "joint", 4),
        (256, 2 * 256, "joint", 16),
        (
            1024,
            4096,
            "joint",
            4,
        ),  # a quarter of a 1-MP crop, no mask image; as dense as three images it would be 1
        (1024, 4096, "cached", 4),  # its step computes 1,724 tokens, but each item's cache takes 3.0 GB
        (256, 1024, "cached", 16),
        (4096, 2 * 4096, "cached", 2),
    ],
)
def test_a_batch_holds_what_a_step_computes_and_a_cache_takes(
    targets: int, known: int, conditions: Any, items: int
) -> None:
    assert batch_for(targets, known, conditions, token_bytes=737_280) == items
