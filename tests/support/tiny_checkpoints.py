"""Small random checkpoints of the real transformers classes, written to folders as the hub would have them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxFillPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    GenerationConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLProcessor,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    SwinConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from refine_ops.model.doctor.random_weights import random_pipeline


def sam2(folder: Path) -> Path:
    """SAM 2 at 64 px: Hiera with five blocks."""
    torch.manual_seed(0)
    config = Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [64, 64],
                "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 4], "window_size_per_stage": [8, 4, 4, 4],
                "global_attention_blocks": [3], "window_positional_embedding_background_size": [2, 2],
            },
            "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    )  # fmt: skip
    Sam2Model(config).save_pretrained(folder)
    images = Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16})
    Sam2Processor(image_processor=images).save_pretrained(folder)
    return folder


def sam3(folder: Path) -> Path:
    """SAM 3 at 56 px with a CLIP text model of a few words."""
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
                "global_attn_indexes": [1], "pretrain_image_size": 56,
            },
            "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            "vocab_size": len(_clip_vocabulary()), "hidden_size": 32, "intermediate_size": 32, "projection_dim": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "hidden_act": "gelu",
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
        },
        geometry_encoder_config=small, detr_encoder_config=small,
        detr_decoder_config={**small, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    Sam3Model(config).save_pretrained(folder)
    images = Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16})
    Sam3Processor(image_processor=images, tokenizer=_clip_tokenizer(folder)).save_pretrained(folder)
    return folder


def grounding_dino(folder: Path) -> Path:
    """Grounding DINO with a Swin and a BERT of a few thousand parameters."""
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "text", "logo", "sign", "cup", "a", "the"]
    vocabulary = folder / "vocab.txt"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text("\n".join(words))
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, window_size=2, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "model_type": "bert", "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
        },
        d_model=32, num_queries=12, encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_layers=2, decoder_ffn_dim=32, decoder_attention_heads=2, num_feature_levels=4, max_text_len=64,
        encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    GroundingDinoProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _clip_vocabulary() -> dict[str, int]:
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    symbols = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters), ".</w>"]
    return {symbol: i for i, symbol in enumerate(symbols)}


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    (folder / "vocab.json").write_text(json.dumps(_clip_vocabulary()))
    return CLIPTokenizer(vocab=_clip_vocabulary(), merges=[], model_max_length=77)


_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_vl(folder: Path) -> Path:
    """Qwen2.5-VL with two layers, its processor with a byte-level tokenizer and the usual chat template."""
    pipeline = random_pipeline()
    model, processor = pipeline.text_encoder, pipeline.processor
    processor.chat_template = _CHAT_TEMPLATE
    model.generation_config = GenerationConfig(eos_token_id=model.config.text_config.eos_token_id, pad_token_id=0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def teach(folder: Path, inputs: Mapping[str, torch.Tensor], answer: str) -> None:
    """Overfit the checkpoint in `folder` until it answers the prompt `inputs` with exactly `answer`."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).train()
    tokenizer = Qwen2VLProcessor.from_pretrained(folder).tokenizer
    answered = tokenizer(f"{answer}<|endoftext|>", return_tensors="pt").input_ids
    given = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], answered], dim=1)
    labels = torch.cat([torch.full((1, given), -100), answered], dim=1)
    grown = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    kinds = inputs.get("mm_token_type_ids")
    if kinds is not None:
        grown["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(answered)], dim=1)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(300):
        loss = model(**{**inputs, **grown}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    model.save_pretrained(folder)


def stable_diffusion(folder: Path) -> Path:
    """A text-to-image checkpoint without a mask input, as SDXL's base is: its inpainting pipeline must be found."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=32, norm_num_groups=4,
            attention_head_dim=8,
        ),
        vae=AutoencoderKL(
            block_out_channels=(8, 8), in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(_clip_text()), tokenizer=_clip_tokenizer(folder),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def flux_fill(folder: Path) -> Path:
    """FLUX.1-Fill: a pipeline that takes the mask itself; T5 beside CLIP."""
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -3.0) for c in ["\u2581", *letters, "."])]
    FluxFillPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=20, out_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
            guidance_embeds=True,
        ),
        vae=AutoencoderKL(
            sample_size=32, in_channels=3, out_channels=3, block_out_channels=(4,), layers_per_block=1,
            latent_channels=2, norm_num_groups=1, use_quant_conv=False, use_post_quant_conv=False,
            shift_factor=0.0609, scaling_factor=1.5035,
        ),
        text_encoder=CLIPTextModel(_clip_text()), tokenizer=_clip_tokenizer(folder),
        text_encoder_2=T5EncoderModel(
            T5Config(vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0), scheduler=FlowMatchEulerDiscreteScheduler(),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen_image_edit(folder: Path) -> Path:
    """Qwen-Image-Edit: the editing pipeline, over whose weights diffusers has an inpainting one."""
    modules = random_pipeline().components
    QwenImageEditPipeline(**modules).save_pretrained(folder)
    return folder


def _clip_text() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(_clip_vocabulary()), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, projection_dim=32, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
