"""Put the trained parts together into a folder that the stock pipeline loads."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageEditPlusPipeline, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2VLProcessor

from refine_ops.model.tiny import GRID_PX, STEPS, TRUE_CFG_SCALE, VAE_PIXELS, VLM_GRID_PX, VLM_PIXELS, shapes, tokenizer
from refine_ops.train.tiny import transformer_start

MAX_SHARD = "14MB"


def new_text_parts(prompts: list[str], seed: int = 0) -> tuple[Qwen2VLProcessor, Qwen2_5_VLForConditionalGeneration]:
    """Processor trained on `prompts` and a frozen text encoder with seeded random weights, rounded to bfloat16.

    A random network already tells prompts and pictures apart; the transformer learns what to make of it.
    """
    words = tokenizer.new_tokenizer(prompts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = shapes.new_text_encoder(tokenizer.special_ids(words), len(words))
        with torch.no_grad():
            encoder.model.language_model.embed_tokens.weight.normal_(0.0, 0.3)
    return tokenizer.new_processor(words), encoder.to(torch.bfloat16).float().requires_grad_(False).eval()


def new_transformer(seed: int = 0) -> QwenImageTransformer2DModel:
    """The transformer at its starting point."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = shapes.new_transformer()
    transformer_start.start(model, seed)
    return model


def save(
    folder: Path,
    processor: Qwen2VLProcessor,
    text_encoder: Qwen2_5_VLForConditionalGeneration,
    vae: AutoencoderKLQwenImage,
    transformer: QwenImageTransformer2DModel,
) -> None:
    """Write all parts as bfloat16 safetensors in shards of at most 15 MB, and how to run them (`refine_ops.json`)."""
    pipeline = QwenImageEditPlusPipeline(
        scheduler=shapes.new_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=processor.tokenizer,
        processor=processor,
        transformer=transformer,
    )
    pipeline.to(torch.bfloat16).save_pretrained(folder, safe_serialization=True, max_shard_size=MAX_SHARD)
    for part in ("transformer", "vae"):
        path = folder / part / "config.json"
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)  # where it was trained is nobody's business
        path.write_text(json.dumps(config, indent=2) + "\n")
    usage = {
        "steps": STEPS, "true_cfg_scale": TRUE_CFG_SCALE, "grid_px": GRID_PX, "focus_pixels": VAE_PIXELS,
        "vlm_pixels": VLM_PIXELS, "vlm_grid_px": VLM_GRID_PX,
    }  # fmt: skip
    (folder / "refine_ops.json").write_text(json.dumps(usage, indent=2) + "\n")
