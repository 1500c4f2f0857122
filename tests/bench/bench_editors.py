"""Editors at their released sizes with random weights: bytes by counting, seconds and memory on a GPU.

    python tests/bench/bench_editors.py --parts count                          # any machine, seconds
    python tests/bench/bench_editors.py --parts region --editors flux2-klein-4b --repeats 5      # one GPU

Sizes are those of the released configurations as their conversions and cards state them; random weights cost what
trained ones do. `region` builds the pipeline on the GPU in bfloat16, refines one crop of `--side` px through the
adapter and prints seconds per region (median, the first call apart) and the largest memory allocated.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    LongCatImageTransformer2DModel,
    QwenImage21Transformer2DModel,
    QwenImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from refine_ops.config import ModelSettings
from refine_ops.model.doctor.random_weights import FULL, _text_config, fill_random
from refine_ops.model.editor.load import pipeline_class
from refine_ops.model.editor.refiner import EditorRefiner
from refine_ops.model.presets import PRESETS, EditorPreset, apply_overrides
from refine_ops.records import Conditioning
from tests.support.editors import BUILDERS

Parts = dict[str, Any]
_DOWN, _UP = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4


def _flux2(heads: int, joint: int, layers: int, single: int, text: dict[str, Any]) -> Parts:
    return {
        "transformer": Flux2Transformer2DModel(
            in_channels=128, num_layers=layers, num_single_layers=single, num_attention_heads=heads,
            attention_head_dim=128, joint_attention_dim=joint, guidance_embeds=False,
        ),
        "text_encoder": Qwen3ForCausalLM(Qwen3Config(
            num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128, vocab_size=151_936,
            **text,
        )),
        "vae": AutoencoderKLFlux2(),
    }  # fmt: skip


def klein_4b() -> Parts:
    text = {"hidden_size": 2560, "intermediate_size": 9728, "tie_word_embeddings": True}
    return _flux2(24, 7680, 5, 20, text)


def klein_9b() -> Parts:
    text = {"hidden_size": 4096, "intermediate_size": 12_288, "tie_word_embeddings": False}
    return _flux2(32, 12_288, 8, 24, text)


def _flux_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=_DOWN, up_block_types=_UP, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159,
        scaling_factor=0.3611,
    )  # fmt: skip


def kontext() -> Parts:
    return {
        "transformer": FluxTransformer2DModel(guidance_embeds=True),
        "text_encoder": CLIPTextModel(CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        )),
        "text_encoder_2": T5EncoderModel(T5Config(
            vocab_size=32_128, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu",
        )),
        "vae": _flux_vae(),
    }  # fmt: skip


def _qwen_text() -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration(_text_config(FULL))


def qwen_edit() -> Parts:
    return {
        "transformer": QwenImageTransformer2DModel(num_layers=60, num_attention_heads=24, attention_head_dim=128),
        "text_encoder": _qwen_text(),
        "vae": AutoencoderKLQwenImage(),
    }


def qwen_image_21() -> Parts:
    text = {
        "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
    }  # fmt: skip
    vision = {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    }  # fmt: skip
    return {
        "transformer": QwenImage21Transformer2DModel(),
        "text_encoder": Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision)),
        "vae": AutoencoderKLQwenImage21(),
    }


def longcat() -> Parts:
    return {
        "transformer": LongCatImageTransformer2DModel(num_layers=10, num_single_layers=20),
        "text_encoder": _qwen_text(),
        "vae": _flux_vae(),
    }


SIZES: dict[str, Callable[[], Parts]] = {
    "flux2-klein-4b": klein_4b,
    "flux2-klein-4b-inpaint": klein_4b,
    "flux2-klein-9b-kv": klein_9b,
    "flux1-kontext": kontext,
    "flux1-kontext-inpaint": kontext,
    "qwen-image-edit-inpaint": qwen_edit,
    "qwen-image-2.1": qwen_image_21,
    "qwen-image-2.1-turbo": qwen_image_21,
    "longcat-image-edit": longcat,
}


def count(names: list[str]) -> None:
    """Bytes of every component in bfloat16."""
    print(f"{'preset':26}{'all':>10}{'largest':>10}   components, GB (10^9 bytes), bfloat16")
    for name in names:
        with torch.device("meta"):
            parts = SIZES[name]()
        sizes = {part: 2 * sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
        each = ", ".join(f"{part} {size / 1e9:.2f}" for part, size in sizes.items())
        print(f"{name:26}{sum(sizes.values()) / 1e9:>10.2f}{max(sizes.values()) / 1e9:>10.2f}   {each}")


def region(names: list[str], side: int, repeats: int, settings: dict[str, Any]) -> None:
    """Seconds per region and memory of one editor after the other, on the GPU."""
    device = torch.device("cuda")
    for name in names:
        preset = PRESETS[name]
        assert isinstance(preset, EditorPreset)
        model = ModelSettings(model=name, licence="accepted", **settings)
        preset = apply_overrides(preset, model)
        assert isinstance(preset, EditorPreset)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        refiner = EditorRefiner(_pipeline(name, preset, device, model), preset, model, device)
        random = np.random.default_rng(0)
        mask = np.zeros((side, side), bool)
        mask[side // 3 : side // 2, side // 3 : side // 2] = True
        pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
        times = []
        for seed in range(repeats + 1):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            refiner.refine([Conditioning(pixels, mask, mask, "refine the logo.", seed)])
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{name:26}{side}^2, {preset.steps} steps: {statistics.median(times[1:]):.2f} s per region "
            f"(first {times[0]:.1f} s), {peak:.1f} GiB at most"
        )
        del refiner


def _pipeline(name: str, preset: EditorPreset, device: torch.device, settings: ModelSettings) -> Any:
    """The class around networks of the released sizes; tokenizers and processors are the tests' tiny ones."""
    with tempfile.TemporaryDirectory() as scratch:
        tiny = pipeline_class(preset).from_pretrained(BUILDERS[preset.pipeline](Path(scratch) / "tiny"))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            parts = SIZES[name]()
            for part in parts.values():
                fill_random(part.requires_grad_(False).eval())
    finally:
        torch.set_default_dtype(default)
    others = {key: value for key, value in tiny.components.items() if key not in parts}
    made = type(tiny)(**others, **parts)
    made.set_progress_bar_config(disable=True)
    if settings.compile:
        made.transformer.compile_repeated_blocks(dynamic=True, fullgraph=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", choices=("count", "region"), default="count")
    parser.add_argument("--editors", nargs="*", default=list(SIZES), choices=list(SIZES), metavar="NAME")
    parser.add_argument("--side", type=int, default=1024, help="the crop's sides, px")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    if chosen.parts == "count":
        count(chosen.editors)
        return
    if not torch.cuda.is_available():
        parser.error("`--parts region` needs a GPU; `--parts count` runs anywhere")
    region(chosen.editors, chosen.side, chosen.repeats, {"compile": True} if chosen.compile else {})


if __name__ == "__main__":
    main()
