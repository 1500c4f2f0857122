"""Tiny pipelines with random weights, one per class of the table of editors, in folders as the hub would have them."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderKLQwenImage21,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinInpaintPipeline,
    Flux2KleinKVPipeline,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxKontextInpaintPipeline,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    LongCatImageEditPipeline,
    LongCatImageTransformer2DModel,
    QwenImage21Pipeline,
    QwenImage21Transformer2DModel,
    QwenImageEditInpaintPipeline,
    QwenImageEditPipeline,
)
from transformers import (
    CLIPTextModel,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from refine_ops.model.doctor.random_weights import byte_tokenizer, fill_random, random_pipeline
from refine_ops.model.tiny.tokenizer import special_ids
from tests.support.tiny_checkpoints import _clip_text, _clip_tokenizer

_CHAT: Final = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Draws inside come from `seed`; the global generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def klein(folder: Path, pipeline: Any = Flux2KleinPipeline) -> Path:
    """FLUX.2 klein: its text encoder is read at its 9th, 18th and 27th layer, so it has 28."""
    with seeded(1):
        modules = {
            "transformer": Flux2Transformer2DModel(
                in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=24, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
            ),
            "text_encoder": Qwen3ForCausalLM(Qwen3Config(
                hidden_size=8, intermediate_size=8, num_hidden_layers=28, num_attention_heads=1, num_key_value_heads=1,
                head_dim=8, vocab_size=len(byte_tokenizer()), max_position_embeddings=1024,
            )),
            "vae": AutoencoderKLFlux2(
                block_out_channels=(4,) * 4, layers_per_block=1, latent_channels=2, norm_num_groups=1,
            ),
        }  # fmt: skip
        _filled(modules)
        modules["vae"].bn.running_var.uniform_(0.5, 2.0)
    pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), tokenizer=_chatting(),
        is_distilled=False, **modules,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def kontext(folder: Path, pipeline: Any = FluxKontextPipeline) -> Path:
    """FLUX.1 Kontext: CLIP and T5, guidance embedded."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -3.0) for c in ["▁", *letters, "."])]
    with seeded(2):
        modules = {
            "transformer": FluxTransformer2DModel(
                in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=16, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
            ),
            "vae": image_vae(levels=4, latents=2),
            "text_encoder": CLIPTextModel(_clip_text()),
            "text_encoder_2": T5EncoderModel(
                T5Config(vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            ),
        }  # fmt: skip
        _filled(modules)
    pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), tokenizer=_clip_tokenizer(folder),
        tokenizer_2=T5Tokenizer(vocab=pieces, extra_ids=0), **modules,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen_edit(folder: Path, pipeline: Any = QwenImageEditPipeline) -> Path:
    """Qwen-Image-Edit with 16 px per latent: it always works at 1 MP, which is many latents."""
    parts = random_pipeline(seed=4).components
    with seeded(4):
        parts["vae"] = AutoencoderKLQwenImage(
            base_dim=4, z_dim=16, dim_mult=[1] * 5, num_res_blocks=1, temperal_downsample=[False, True, True, True]
        )
        _filled({"vae": parts["vae"]})
    parts["processor"] = _glancing(parts["tokenizer"])
    pipeline(**parts).save_pretrained(folder)
    return folder


def qwen_image_21(folder: Path, sample_sigmas: list[float] | None = None) -> Path:
    """Qwen-Image-2.1; with `sample_sigmas` as its Turbo, whose schedule is fixed."""
    tokenizer = _chatting()
    ids = special_ids(tokenizer)
    with seeded(5):
        text = {
            "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "num_key_value_heads": 2, "head_dim": 8, "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        }  # fmt: skip
        vision = {
            "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        }  # fmt: skip
        modules = {
            "transformer": QwenImage21Transformer2DModel(
                in_channels=8, out_channels=8, num_layers=2, attention_head_dim=16, num_attention_heads=2,
                context_in_dim=16, mlp_ratio=2, axes_dims_rope=(4, 6, 6),
            ),
            "vae": AutoencoderKLQwenImage21(
                base_dim=4, decoder_base_dim=4, z_dim=8, dim_mult=[1] * 5, num_res_blocks=1,
                latents_mean=[0.0] * 8, latents_std=[1.0] * 8,
            ),
            "text_encoder": Qwen3VLForConditionalGeneration(Qwen3VLConfig(
                text_config=text, vision_config=vision, image_token_id=ids["<|image_pad|>"],
                video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
                vision_end_token_id=ids["<|vision_end|>"],
            )),
        }  # fmt: skip
        _filled(modules)
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16, merge_size=2, size={"shortest_edge": 32 * 32, "longest_edge": 1 << 22}
        ),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=16, merge_size=2),
        chat_template=_CHAT,
    )
    QwenImage21Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), processor=processor, sample_sigmas=sample_sigmas, **modules
    ).save_pretrained(folder)
    return folder


def longcat(folder: Path) -> Path:
    """LongCat-Image-Edit."""
    parts = random_pipeline(seed=6).components
    with seeded(6):
        modules = {
            "transformer": LongCatImageTransformer2DModel(
                in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
                joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 6, 6],
            ),
            "vae": image_vae(levels=4, latents=16),
        }  # fmt: skip
        _filled(modules)
    LongCatImageEditPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"], text_processor=_glancing(parts["tokenizer"]), **modules,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def image_vae(levels: int, latents: int) -> AutoencoderKL:
    """An autoencoder of pictures, `2 ** (levels - 1)` px per latent."""
    return AutoencoderKL(
        down_block_types=(_DOWN,) * levels, up_block_types=(_UP,) * levels, block_out_channels=(4,) * levels,
        layers_per_block=1, latent_channels=latents, norm_num_groups=1, use_quant_conv=False,
        use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.9,
    )  # fmt: skip


BUILDERS: Final[dict[str, Callable[[Path], Path]]] = {
    "Flux2KleinPipeline": klein,
    "Flux2KleinKVPipeline": lambda folder: klein(folder, Flux2KleinKVPipeline),
    "Flux2KleinInpaintPipeline": lambda folder: klein(folder, Flux2KleinInpaintPipeline),
    "FluxKontextPipeline": kontext,
    "FluxKontextInpaintPipeline": lambda folder: kontext(folder, FluxKontextInpaintPipeline),
    "QwenImageEditPipeline": qwen_edit,
    "QwenImageEditInpaintPipeline": lambda folder: qwen_edit(folder, QwenImageEditInpaintPipeline),
    "QwenImage21Pipeline": qwen_image_21,
    "LongCatImageEditPipeline": longcat,
}
"""A class of the table -> what writes a tiny one to a folder."""


def _filled(modules: dict[str, Any]) -> None:
    for module in modules.values():
        fill_random(module.requires_grad_(False).eval())


def _glancing(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """Shows the text encoder pictures of 16 tokens at most, whatever their size."""
    limits = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits), tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor()
    )


def _chatting() -> Qwen2Tokenizer:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = _CHAT
    return tokenizer
