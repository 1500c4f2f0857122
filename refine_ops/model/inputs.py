"""The host's part: from a conditioning record to the arrays the stages take. No device is touched.

Everything here depends on one item alone, so an item's inputs, its noise and the shapes it runs at (`Bucket`) are the
same in any company.
"""

import hashlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from refine_ops.errors import ItemError
from refine_ops.model.load import Networks
from refine_ops.model.presets import Preset
from refine_ops.model.sizes import check_crop, check_ratio, fit_size, token_grid
from refine_ops.model.sparse import choose_tokens
from refine_ops.records import Conditioning

PICTURE = "Picture {}: <|vision_start|><|image_pad|><|vision_end|>"
"""How Qwen-Image-Edit's training names its images in front of the instruction."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shapes of one item's work; items of equal buckets may share a batch.

    Sizes are `(width, height)` in px. `images` are the VAE's inputs in order (crop first), `thumbnails` the language
    model's. `text` is the number of tokens of the prompt behind the template, padding included; `negative` that of the
    negative prompt, 0 without guidance. `targets` counts the denoised tokens.
    """

    images: tuple[tuple[int, int], ...]
    thumbnails: tuple[tuple[int, int], ...]
    text: int
    negative: int
    targets: int


@dataclass(frozen=True, slots=True)
class TextInput:
    """One prompt with its images' placeholders expanded: `int64 (L,)` token ids, template included."""

    ids: torch.Tensor
    key: str


@dataclass(frozen=True, slots=True)
class PreparedInputs:
    """One item, ready for the stages.

    `images` are `uint8 (3, h, w)`, `images_key` is their hash; `pixel_values` `float32 (patches, 1176)` and `grid_thw`
    `int64 (n, 3)` are Qwen's image processor's; `noise` is `float32 (C, h, w)` over the latents; `targets` `int64 (K,)`
    or None for all tokens.
    """

    bucket: Bucket
    images: tuple[torch.Tensor, ...]
    images_key: str
    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    prompt: TextInput
    negative: TextInput | None
    noise: torch.Tensor
    targets: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model fixes about its inputs; `negative_prompt` is None without guidance."""

    preset: Preset
    processor: Any
    template: str
    template_tokens: int
    latent_px: int
    latent_channels: int
    negative_prompt: str | None
    target_ring: int
    _tokenizing: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, networks: Networks, preset: Preset, *, negative_prompt: str | None, target_ring: int) -> "InputSpec":
        """What these networks take, run as `preset` says."""
        return cls(
            preset=preset,
            processor=networks.processor,
            template=networks.template,
            template_tokens=networks.template_tokens,
            latent_px=networks.latent_px,
            latent_channels=networks.transformer.config.in_channels // 4,
            negative_prompt=negative_prompt,
            target_ring=target_ring,
        )


def prepare(item: Conditioning, spec: InputSpec, text_multiple: Callable[[Bucket], int]) -> PreparedInputs:
    """Make one item's inputs; safe in several threads.

    Args:
        text_multiple: To a multiple of how many tokens the texts of a bucket are padded; asked with plain lengths.

    Raises:
        ItemError: `model.size` (not on the model's grid), `model.ratio` (too thin), `prompt.special_token`.
    """
    height, width = item.image.shape[:2]
    check_crop((width, height), spec.preset.grid_px)
    if item.reference is not None:
        check_ratio("reference", (item.reference.shape[1], item.reference.shape[0]))
    crop, mask = Image.fromarray(item.image), Image.fromarray(item.mask.astype(np.uint8) * 255).convert("RGB")
    reference = None if item.reference is None else Image.fromarray(item.reference)
    images = _vae_images(crop, reference, mask, spec)
    thumbnails = _thumbnails([crop, reference, None if spec.preset.mask_image == "none" else mask], spec.preset)
    features = spec.processor.image_processor(images=thumbnails, return_tensors="pt")
    pixels_key = hashlib.sha256(b"".join(image.tobytes() for image in thumbnails)).hexdigest()
    prompt = _tokenize(item.prompt, features["image_grid_thw"], pixels_key, spec)
    negative = None
    if spec.negative_prompt is not None:
        negative = _tokenize(spec.negative_prompt, features["image_grid_thw"], pixels_key, spec)
    grid = token_grid((width, height), spec.latent_px)
    targets = None
    if spec.preset.targets == "sparse":
        targets = choose_tokens(item.support, grid, spec.target_ring)
    bucket = Bucket(
        images=tuple((image.shape[2], image.shape[1]) for image in images),
        thumbnails=tuple(image.size for image in thumbnails),
        text=len(prompt.ids) - spec.template_tokens,
        negative=0 if negative is None else len(negative.ids) - spec.template_tokens,
        targets=math.prod(grid) if targets is None else len(targets),
    )
    multiple = text_multiple(bucket)
    return PreparedInputs(
        bucket=replace(bucket, text=_padded(bucket.text, multiple), negative=_padded(bucket.negative, multiple)),
        images=images,
        images_key=_digest_of(images),
        pixel_values=features["pixel_values"],
        grid_thw=features["image_grid_thw"],
        prompt=prompt,
        negative=negative,
        noise=draw_noise(item.seed, (spec.latent_channels, height // spec.latent_px, width // spec.latent_px)),
        targets=targets,
    )


def draw_noise(seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Standard normal `float32 (C, h, w)` from the item's own seed: drawn on the CPU, so equal on every device.

    Always in fp32: drawn in bf16, as the pipeline would for a bf16 model, the same seed gives other numbers.
    """
    # The leading axes are the pipeline's; they do not change the stream.
    return torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)[0, 0]


def _vae_images(
    crop: Image.Image, reference: Image.Image | None, mask: Image.Image, spec: InputSpec
) -> tuple[torch.Tensor, ...]:
    """`uint8 (3, h, w)` each: crop and mask at the crop's size, the reference of like area at its own ratio."""
    preset = spec.preset
    images = [crop]
    if reference is not None:
        budget = min(crop.width * crop.height, preset.focus_pixels)
        images.append(_resized(reference, fit_size(budget, reference.width / reference.height, preset.grid_px)))
    if preset.mask_image == "vlm+vae":
        size = crop.size
        if preset.mask_pixels is not None and preset.mask_pixels < crop.width * crop.height:
            size = fit_size(preset.mask_pixels, crop.width / crop.height, preset.grid_px)
        images.append(_resized(mask, size))
    return tuple(torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in images)


def _thumbnails(images: list[Image.Image | None], preset: Preset) -> list[Image.Image]:
    return [
        _resized(image, fit_size(preset.vlm_pixels, image.width / image.height, preset.vlm_grid_px))
        for image in images
        if image is not None
    ]


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _tokenize(prompt: str, grids: torch.Tensor, pixels_key: str, spec: InputSpec) -> TextInput:
    tokenizer = spec.processor.tokenizer
    for added in tokenizer.added_tokens_decoder.values():
        if added.special and (token := str(added)) in prompt:
            raise ItemError("prompt.special_token", f"the prompt contains the control token {token!r}; remove it")
    merge = spec.processor.image_processor.merge_size**2
    pad = spec.processor.image_token
    pictures = "".join(
        PICTURE.format(index + 1).replace(pad, pad * (int(grid.prod()) // merge)) for index, grid in enumerate(grids)
    )
    with spec._tokenizing:  # a fast tokenizer is not thread-safe: "Already borrowed"
        ids = tokenizer(spec.template.format(pictures + prompt), return_tensors="pt")["input_ids"][0]
    return TextInput(ids, f"{pixels_key}:{prompt}")


def _digest_of(images: tuple[torch.Tensor, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)  # several times as fast as SHA-256, over megabytes per item
    for image in images:
        digest.update(repr(image.shape).encode() + image.numpy().data)
    return digest.hexdigest()


def _padded(length: int, multiple: int) -> int:
    return math.ceil(length / multiple) * multiple
