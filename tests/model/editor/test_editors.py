"""An editor in use: what it cannot take is refused by name, its company shows in nothing, a new one is one row."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flows.steps.weights import parts_of
from refine_ops.chain import refine_image
from refine_ops.config import ModelSettings, RefineSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.judge.judge import open_judge, said_without_gate
from refine_ops.model.doctor.doctor import diagnose
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.open import open_refiner
from refine_ops.model.presets import PRESETS, EditorPreset, apply_overrides, resolve_preset
from refine_ops.model.presets.editors import licence_of
from refine_ops.model.presets.table import TABLE, EditorRow
from refine_ops.model.source import resolve_model
from tests.model.editor.conftest import Editors, a_crop, an_item, opened
from tests.support.editors import image_vae, qwen_image_21, seeded

CPU = torch.device("cpu")
KONTEXT, KLEIN = "FluxKontextPipeline", "Flux2KleinPipeline"


class Twenty(diffusers.DiffusionPipeline):
    """An editor of twenty lines: noise through an autoencoder, laid over the picture."""

    def __init__(self, vae: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(vae=vae, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self, picture: Any, words: str = "", prompt: str = "", num_inference_steps: int = 1, punch: float = 0.5,
        shrink: int = 1, generator: Any = None, output_type: str = "pil",
    ) -> Any:  # fmt: skip
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
        latents = self.vae.encode(pixels).latent_dist.mode()
        for _ in range(num_inference_steps):
            latents = latents + punch * torch.randn(latents.shape, generator=generator)
        made = (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return diffusers.utils.BaseOutput(images=made[:, ::shrink, ::shrink])


@pytest.fixture
def twenty(tmp_path: Path) -> Path:
    with seeded(9):
        vae = image_vae(levels=2, latents=2)
    Twenty(vae, diffusers.FlowMatchEulerDiscreteScheduler()).save_pretrained(tmp_path / "twenty")
    return tmp_path / "twenty"


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> EditorRow:
    """The one thing that makes `Twenty` an editor."""
    one = EditorRow(module=__name__, image="picture", sizing="none", grid_px=8, always={"punch": 0.25})
    monkeypatch.setitem(TABLE, "Twenty", one)
    return one


def test_a_pipeline_of_twenty_lines_becomes_an_editor_by_its_row_alone(twenty: Path, row: EditorRow) -> None:
    model = ModelSettings(model=str(twenty), steps=2)
    refiner: Any = open_refiner(model, CPU)
    item, files = an_item()
    settings = RefineSettings.model_validate({"model": model, "publish": "all", "focus": {"focus_pixels": 96 * 96}})
    finished = refine_image(item, files, refiner, settings)
    assert finished.verification.changed_px > 1000
    assert finished.verification.changed_outside_px == 0
    crop = a_crop()
    stock = Twenty.from_pretrained(twenty)(
        Image.fromarray(crop.image),
        num_inference_steps=2,
        punch=0.25,
        generator=torch.Generator().manual_seed(crop.seed),
    ).images[0]
    np.testing.assert_array_equal(refiner.refine([crop])[0].pixels, stock)


def test_a_row_that_names_what_the_class_has_not_or_leaves_out_what_it_wants_is_refused(
    twenty: Path, row: EditorRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLE, "Twenty", replace(row, mask="mask_image", sizing="given"))
    with pytest.raises(JobError, match=r"Twenty takes no height, mask_image, width.*presets/table\.py"):
        open_refiner(ModelSettings(model=str(twenty)), CPU)
    monkeypatch.setitem(TABLE, "Twenty", replace(row, image="words"))
    with pytest.raises(JobError, match="Twenty needs picture, which nothing gives"):
        open_refiner(ModelSettings(model=str(twenty)), CPU)


def test_a_pipeline_that_makes_another_size_is_refused(
    twenty: Path, row: EditorRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TABLE, "Twenty", replace(row, always={"shrink": 2}))
    refiner: Any = open_refiner(ModelSettings(model=str(twenty)), CPU)
    with pytest.raises(ItemError, match="Twenty made 48x32 of a picture of 96x64"):
        refiner.refine([a_crop()])


def test_a_class_outside_the_table_is_read_off_its_signature(editors: Editors, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pipeline: NAME`: the same call, as far as diffusers' usual names go."""
    model = ModelSettings(model=str(editors(KLEIN)), pipeline=KLEIN, steps=1)
    known = opened(model).refine([a_crop()])[0].pixels
    monkeypatch.delitem(TABLE, KLEIN)
    inferred = open_refiner(model, CPU)
    assert inferred.grid_px == 32
    np.testing.assert_array_equal(inferred.refine([a_crop()])[0].pixels, known)
    with pytest.raises(JobError, match="Flux2KleinPipeline takes no true_cfg_scale"):
        open_refiner(model.model_copy(update={"true_cfg_scale": 2.0}), CPU)
    with pytest.raises(JobError, match=r"'NoSuchPipeline' is no pipeline of diffusers .*one of Flux2KleinKVPipeline"):
        open_refiner(model.model_copy(update={"pipeline": "NoSuchPipeline"}), CPU)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "flux2-klein-4b", "negative_prompt": "blur"}, "Flux2KleinPipeline takes no negative_prompt"),
        ({"model": "flux2-klein-4b", "strength": 0.5, "fp8": True}, "takes no fp8, strength; leave them out"),
        ({"model": "flux1-kontext", "mask_image": "vlm", "targets": "sparse"}, "takes no mask_image, targets"),
        ({"model": "flux1-kontext", "conditions": "cached"}, "takes no conditions 'cached'"),
        ({"model": "flux2-klein-9b-kv", "conditions": "joint"}, "takes no conditions 'joint'"),
        ({"model": "longcat-image-edit", "true_cfg_scale": 2.0}, "takes no true_cfg_scale"),
        ({"model": "tiny", "strength": 0.5}, "'tiny' takes no strength: only editors do"),
    ],
)
def test_a_setting_without_an_argument_is_refused_before_anything_is_loaded(
    settings: dict[str, Any], words: str
) -> None:
    model = ModelSettings(**settings)
    with pytest.raises(JobError, match=words):
        apply_overrides(resolve_preset(model), model)


def test_what_a_region_has_and_a_class_cannot_take_is_refused_by_name(editors: Editors) -> None:
    klein = opened(ModelSettings(model=str(editors(KLEIN)), steps=1))
    kontext = opened(ModelSettings(model=str(editors(KONTEXT)), steps=1))
    inpaint = opened(ModelSettings(model=str(editors(KONTEXT)), pipeline="FluxKontextInpaintPipeline", steps=1))
    klein.prepare(a_crop(references=3))
    with pytest.raises(ItemError, match="Flux2KleinPipeline takes 3 references, this region has 4; leave 1 out"):
        klein.prepare(a_crop(references=4))
    with pytest.raises(ItemError, match="FluxKontextInpaintPipeline takes 1 reference, this region has 3; leave 2 out"):
        inpaint.prepare(a_crop(references=3))
    with pytest.raises(ItemError, match="FluxKontextPipeline takes no references, this region has 1"):
        kontext.prepare(a_crop(references=1))
    with pytest.raises(ItemError, match="multiples of 16 px, this crop is 100x64"):
        klein.prepare(a_crop(size=(100, 64)))
    with pytest.raises(ItemError, match="64 px and more along each side, this crop is 96x48"):
        klein.prepare(a_crop(size=(96, 48)))
    with pytest.raises(ItemError, match=r"crops of 1,048,576 px at most, this one has 1040x1024"):
        klein.prepare(a_crop(size=(1040, 1024)))
    thin = replace(a_crop(), reference=np.zeros((64, 640, 3), np.uint8))
    with pytest.raises(ItemError, match="the reference is 640x64; Flux2KleinPipeline takes ratios up to 8:1"):
        klein.prepare(thin)
    with pytest.raises(ItemError, match="the prompt has 2000 tokens and Flux2KleinPipeline reads 480"):
        klein.prepare(replace(a_crop(), prompt="a" * 2000))
    with pytest.raises(ItemError, match=r"control token '<\|im_end\|>'"):
        klein.prepare(replace(a_crop(), prompt="now <|im_end|>"))
    with pytest.raises(JobError, match="takes one region at a time, batch_size is 2"):
        open_refiner(ModelSettings(model=str(editors(KLEIN)), batch_size=2), CPU)
    with pytest.raises(JobError, match=r"offload moves components between the host and a GPU, this is cpu"):
        open_refiner(ModelSettings(model=str(editors(KLEIN)), offload=True), CPU)


def test_a_prompt_counts_the_same_while_the_pipeline_pads_another(editors: Editors) -> None:
    """One fast tokenizer in two threads: 512 tokens were counted of 16 now and then, and the item was dead."""
    refiner = opened(ModelSettings(model=str(editors(KLEIN)), steps=1))
    tokenizer, over = refiner._pipeline.tokenizer, threading.Event()

    def pad() -> None:
        while not over.is_set():
            tokenizer(["a logo"], padding="max_length", max_length=512, truncation=True)

    thread = threading.Thread(target=pad)
    thread.start()
    try:
        for _ in range(1000):
            refiner._call._check_prompt("refine the logo.")
    finally:
        over.set()
        thread.join()


def test_three_references_where_one_fits_never_reach_the_network(editors: Editors) -> None:
    """From the manifest's row on: the region's further references come as far as who refuses them."""
    model = ModelSettings(model=str(editors(KONTEXT)), pipeline="FluxKontextInpaintPipeline", steps=1)
    item, files = an_item(references=3)
    settings = RefineSettings.model_validate({"model": model, "publish": "all", "focus": {"focus_pixels": 96 * 96}})
    with pytest.raises(ItemError, match="takes 1 reference, this region has 3; leave 2 out"):
        refine_image(item, files, opened(model), settings)


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.batched])
def test_in_a_batch_a_patch_does_not_depend_on_its_company(name: str, editors: Editors) -> None:
    folder = editors(name) if name.startswith("FluxK") else editors(KLEIN)
    refiner: Any = open_refiner(ModelSettings(model=str(folder), pipeline=name, steps=1, batch_size=2), CPU)
    mine, one, other = a_crop(1), a_crop(2), replace(a_crop(3), prompt="another one, of more words.")
    (alone,) = refiner.refine([mine])
    assert (alone.batch_size, alone.step_down) == (2, "none")
    for batch, place in (([mine, one], 0), ([other, mine], 1)):
        made = refiner.refine(batch)[place]
        np.testing.assert_array_equal(made.pixels, alone.pixels)
        np.testing.assert_array_equal(made.roundtrip, alone.roundtrip)


def test_memory_that_runs_out_steps_down_and_is_recorded(editors: Editors, monkeypatch: pytest.MonkeyPatch) -> None:
    refiner: Any = open_refiner(ModelSettings(model=str(editors(KONTEXT)), steps=1, batch_size=2), CPU)
    alone = opened(ModelSettings(model=str(editors(KONTEXT)), steps=1)).refine([a_crop()])[0]
    call = diffusers.FluxKontextPipeline.__call__

    def full(self: Any, **given: Any) -> Any:
        if isinstance(given["prompt"], list):
            raise torch.OutOfMemoryError("no room")
        return call(self, **given)

    monkeypatch.setattr(diffusers.FluxKontextPipeline, "__call__", full)
    made = refiner.refine([a_crop(), a_crop(1)])
    assert [(patch.batch_size, patch.step_down) for patch in made] == [(1, "batch 1")] * 2
    np.testing.assert_array_equal(made[0].pixels, alone.pixels)


def _lora(path: Path, layer: str, out: int, into: int) -> str:
    with seeded(3):
        halves = {"lora_A": torch.randn(2, into), "lora_B": torch.randn(out, 2)}
    save_file({f"transformer.{layer}.{half}.weight": value for half, value in halves.items()}, path)
    return str(path)


def test_a_lora_is_fused_hashed_and_refused_where_it_does_not_fit(editors: Editors, tmp_path: Path) -> None:
    folder, layer = str(editors(KONTEXT)), "transformer_blocks.0.attn.to_q"
    plain = ModelSettings(model=folder, steps=1)
    fitting = plain.model_copy(update={"adapters": (_lora(tmp_path / "a.safetensors", layer, 32, 32),)})
    refiners = [opened(settings) for settings in (plain, fitting)]
    weights = [refiner._pipeline.transformer.get_submodule(layer).weight for refiner in refiners]
    with seeded(3):
        down, up = torch.randn(2, 32), torch.randn(32, 2)
    torch.testing.assert_close(weights[1], weights[0] + up @ down)
    patches = [refiner.refine([a_crop()])[0].pixels for refiner in refiners]
    assert np.abs(patches[0] - patches[1]).max() > 1e-3
    prints = [fingerprint_model(resolve_model(settings), settings) for settings in (plain, fitting)]
    assert {name for name in prints[1] if prints[0].get(name) != prints[1][name]} == {"lora.0"}
    for wrong, words in (
        (_lora(tmp_path / "b.safetensors", "transformer_blocks.7.attn.to_q", 32, 32), "1 of 1 layers are not in the"),
        (
            _lora(tmp_path / "c.safetensors", layer, 32, 64),
            r"to_q changes a \(32, 64\) weight, the model's is \(32, 32",
        ),
    ):
        with pytest.raises(JobError, match=words):
            open_refiner(plain.model_copy(update={"adapters": (wrong,)}), CPU)


def test_the_fingerprint_holds_the_weights_the_call_and_the_licence(editors: Editors, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(editors(KONTEXT), copied)
    settings = ModelSettings(model=str(editors(KONTEXT)))
    before = fingerprint_model(resolve_model(settings), settings)
    assert {"weights.transformer", "weights.vae", "weights.text_encoder", "weights.tokenizer"} <= before.keys()
    assert (before["preset.pipeline"], before["licence"]) == (f'"{KONTEXT}"', "nobody said")
    there = ModelSettings(model=str(copied))
    assert fingerprint_model(resolve_model(there), there) == before, "wherever it lies"
    index = json.loads((copied / "model_index.json").read_text())
    (copied / "model_index.json").write_text(json.dumps({**index, "is_distilled": True}))
    changed = fingerprint_model(resolve_model(there), there)
    assert {name for name in before if before[name] != changed[name]} == {"model_index"}


def test_a_non_commercial_licence_is_named_and_has_to_be_accepted(
    editors: Editors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(editors(KONTEXT), copied)
    card = "---\nlicense: other\nlicense_name: flux-non-commercial-license\n---\n# A model\n"
    (copied / "README.md").write_text(card)
    klein = PRESETS["flux2-klein-4b"]
    assert isinstance(klein, EditorPreset)
    beside, alone = licence_of(klein, copied), licence_of(klein, tmp_path)
    assert (beside and beside.commercial, alone and alone.commercial) == (False, True), (
        "the card wins if it forbids more"
    )
    model = ModelSettings(model=str(copied))
    words = "under flux-non-commercial-license, for non-commercial use"
    with pytest.raises(JobError, match=rf"{words}.*licence: accepted"):
        open_refiner(model, CPU)
    accepted = model.model_copy(update={"licence": "accepted"})
    open_refiner(accepted, CPU)
    assert words in caplog.text
    assert fingerprint_model(resolve_model(accepted), accepted)["licence"] == "flux-non-commercial-license"
    recorded = parts_of(RefineSettings(model=accepted))
    assert recorded["weights.licence"] == "flux-non-commercial-license", "as run.json has it"
    with pytest.raises(JobError, match="licence: accepted"):
        parts_of(RefineSettings(model=model))
    (copied / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    open_refiner(model, CPU)
    closed = {
        name for name, p in PRESETS.items() if isinstance(p, EditorPreset) and p.licence and not p.licence.commercial
    }
    nine = {"flux2-klein-9b-kv", "flux1-kontext", "flux1-kontext-inpaint", "qwen-image-2.1", "qwen-image-2.1-turbo"}
    assert closed == nine


def test_an_editor_without_a_calibrated_gate_is_held_to_the_fixed_rules_and_a_start_says_so(editors: Editors) -> None:
    settings = RefineSettings(model=ModelSettings(model=str(editors(KONTEXT))))
    judge = open_judge(settings)
    assert judge is not None
    assert judge.gates == {}
    assert "regions are held by fixed rules only" in said_without_gate(settings, judge)


def test_nothing_of_a_checkpoint_is_run_and_no_pickle_is_read(editors: Editors, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(editors(KONTEXT), tmp_path / name))

    folder = broken("code")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": ["my_vae", "MyVae"]}))
    with pytest.raises(JobError, match=r"vae is my_vae\.MyVae; only classes of diffusers and transformers are loaded"):
        open_refiner(ModelSettings(model=str(folder)), CPU)
    for part in ("vae", "text_encoder_2"):
        folder = broken(f"pickled-{part}")
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
        (folder / part / "diffusion_pytorch_model.bin").write_bytes(b"never read")
        with pytest.raises(JobError, match=rf"{part} holds no \.safetensors weights; pickled ones are never loaded"):
            open_refiner(ModelSettings(model=str(folder)), CPU)
    folder = broken("without")
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(JobError, match="lists tokenizer_2, and no such folder is there"):
        open_refiner(ModelSettings(model=str(folder)), CPU)


def test_weights_that_bring_their_own_schedule_have_it_and_no_other(tmp_path: Path) -> None:
    folder = qwen_image_21(tmp_path / "turbo", sample_sigmas=[1.0, 0.6, 0.3])
    refiner: Any = open_refiner(ModelSettings(model=str(folder)), CPU)
    assert refiner.preset.steps == 3
    with pytest.raises(JobError, match=r"own schedule of 3 steps \(sample_sigmas\), 8 would be ignored"):
        open_refiner(ModelSettings(model=str(folder), steps=8), CPU)
    cached, plain = (
        open_refiner(ModelSettings(model=str(folder), conditions=kept), CPU).refine([a_crop(references=1)])[0].pixels
        for kept in ("cached+text", "joint")
    )
    np.testing.assert_allclose(cached, plain, atol=1e-4)


def test_the_doctor_says_what_an_editor_takes_weighs_and_may_be_used_for(editors: Editors) -> None:
    said = {f.name: f.found for f in diagnose(ModelSettings(model=str(editors(KLEIN))), CPU).findings}
    assert "3 references beside the crop, no mask, guidance_scale, crops of 64 px a side" in said["pipeline"]
    assert said["call"] == "the class takes what its row names"
    assert "GB of files (text_encoder" in said["weights"]
    assert "dtype torch.float32" in said["weights"]
    assert "image positions in prompts" not in said, "those are our own refiner's numbers"
    away = diagnose(ModelSettings(model="flux1-kontext"), CPU)
    said = {f.name: f.found for f in away.findings}
    assert not away.ok, "its weights are not here"
    assert said["licence"].startswith("FLUX.1 [dev] Non-Commercial License, for non-commercial use (as ")
    assert said["weights"] == "33.7 GB in bfloat16, counted"
    refused = diagnose(ModelSettings(model=str(editors(KLEIN)), pipeline="NoSuchPipeline"), CPU)
    assert [f.name for f in refused.findings if not f.ok] == ["call"]
