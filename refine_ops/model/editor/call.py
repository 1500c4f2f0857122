"""A region as a pipeline's arguments, and what it made as a patch: all that the table says, and nothing else."""

import copy
import importlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from refine_ops.config import ModelSettings
from refine_ops.errors import ItemError, JobError
from refine_ops.model.editor.signature import checked, fixed_arguments, size_arguments
from refine_ops.model.presets import EditorPreset
from refine_ops.model.presets.table import ONE_MP
from refine_ops.model.sizes import check_crop
from refine_ops.records import Box, Conditioning, Mask, U8Image

_RATIO: Final = 8
"""Longer to shorter side of a picture, at most: klein refuses more, nobody was trained on it."""
_ROUNDINGS: Final = 4
_GROWN: Final = 1.25
"""Most that a crop is grown to a pipeline's own size, as a multiple of its area: a little rounding, never a zoom."""


@dataclass(frozen=True, slots=True)
class EditorBucket:
    """Works that may share a call: the picture's size, and those of its references, (width, height) each."""

    size: tuple[int, int]
    references: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class EditorWork:
    """One region, ready to be passed. `window` is the crop in the picture, which may be larger (`sizing: own`)."""

    bucket: EditorBucket
    picture: U8Image
    window: Box
    mask: Mask
    references: tuple[U8Image, ...]
    prompt: str
    seed: int


class EditorCall:
    """How one loaded pipeline is called. `work` is safe in several threads.

    Args:
        pipeline: The loaded pipeline, or one without weights: only its class, sizes and tokenizers are asked.
    """

    def __init__(self, pipeline: Any, preset: EditorPreset, settings: ModelSettings) -> None:
        self.row, self.preset = checked(type(pipeline), preset, settings)
        self._name, self._pipeline, self._settings = type(pipeline).__name__, pipeline, settings
        self._tokenizing = threading.Lock()
        # A copy: a fast tokenizer remembers how it was told to pad, and the pipeline pads in another thread meanwhile.
        self._tokenizer = copy.deepcopy(getattr(pipeline, self.row.tokenizer, None))
        self._control = frozenset(_control_tokens(pipeline))
        latent_px = getattr(pipeline, "vae_scale_factor", None)
        if latent_px and self.preset.grid_px % latent_px:
            raise JobError(
                f"{self._name}: grid_px {self.preset.grid_px} is no multiple of a latent's {latent_px} px; these "
                "weights are no such model"
            )
        self._follow_schedule()

    def _follow_schedule(self) -> None:
        """Weights that bring their own steps have them, and no others."""
        own = self._pipeline.config.get(self.row.schedule) if self.row.schedule else None
        if not own:
            return
        if self._settings.steps not in (None, len(own)):
            raise JobError(
                f"{self._name}: these weights bring their own schedule of {len(own)} steps ({self.row.schedule}), "
                f"{self._settings.steps} would be ignored; leave steps out"
            )
        self.preset = replace(self.preset, steps=len(own))

    def work(self, item: Conditioning) -> EditorWork:
        """
        Raises:
            ItemError: `model.size`, `model.ratio`, `model.references`, `prompt.special_token`, `prompt.too_long`.
        """
        height, width = item.image.shape[:2]
        check_crop((width, height), self.preset.grid_px)
        self._check_size("crop", item.image)
        if width * height > self.row.most_px:
            raise ItemError(
                "model.size",
                f"{self._name} takes crops of {self.row.most_px:,} px at most, this one has {width}x{height}; lower "
                "focus.focus_pixels",
            )
        references = self._references(item)
        self._check_prompt(item.prompt)
        picture, window = self._grown(item.image) if self.row.sizing == "own" else (item.image, (0, 0, width, height))
        bucket = EditorBucket(_size(picture), tuple(_size(reference) for reference in references))
        return EditorWork(bucket, picture, window, item.mask, references, item.prompt, item.seed)

    def _references(self, item: Conditioning) -> tuple[U8Image, ...]:
        given: tuple[U8Image, ...] = () if item.reference is None else (item.reference,)
        if self.preset.reference == "as_given":
            given += item.more
        if len(given) > self.row.references:
            raise ItemError(
                "model.references",
                f"{self._name} takes {self.row.references or 'no'} reference{'s' * (self.row.references != 1)}, this "
                f"region has {len(given)}; leave {len(given) - self.row.references} out, or use a model that takes "
                "them",
            )
        for reference in given:
            self._check_size("reference", reference)
        return given

    def _check_size(self, what: str, picture: U8Image) -> None:
        short, long = sorted(picture.shape[:2])
        if short < self.row.least_px:
            raise ItemError(
                "model.size",
                f"{self._name} takes pictures of {self.row.least_px} px and more along each side, this {what} is "
                f"{picture.shape[1]}x{picture.shape[0]}",
            )
        if long > _RATIO * short:
            raise ItemError(
                "model.ratio",
                f"the {what} is {picture.shape[1]}x{picture.shape[0]}; {self._name} takes ratios up to {_RATIO}:1",
            )

    def _check_prompt(self, prompt: str) -> None:
        for token in self._control:
            if token in prompt:
                raise ItemError("prompt.special_token", f"the prompt contains the control token {token!r}; remove it")
        if self.row.prompt_tokens is None or self._tokenizer is None:
            return
        with self._tokenizing:  # a fast tokenizer is not thread-safe: "Already borrowed"
            count = len(self._tokenizer(prompt)["input_ids"])
        if count > self.row.prompt_tokens:
            raise ItemError(
                "prompt.too_long",
                f"the prompt has {count} tokens and {self._name} reads {self.row.prompt_tokens}; it would cut the rest "
                "off",
            )

    def _grown(self, crop: U8Image) -> tuple[U8Image, Box]:
        """The crop, mirrored past its edges to the size that the class would resize it to."""
        width, height = _size(crop)
        wanted = own_size(type(self._pipeline), (width, height))
        right, below = wanted[0] - width, wanted[1] - height
        if min(right, below) < 0 or wanted[0] * wanted[1] > _GROWN * width * height:
            raise ItemError(
                "model.size",
                f"{self._name} always works at about {self.row.most_px:,} px, here {wanted[0]}x{wanted[1]}: a crop of "
                f"{width}x{height} would be resampled; leave focus.focus_pixels out",
            )
        left, top = right // 2, below // 2
        edges = (top, below - top, left, right - left)
        grown = np.asarray(cv2.copyMakeBorder(crop, *edges, cv2.BORDER_REFLECT), np.uint8)
        return grown, (left, top, left + width, top + height)

    def arguments(self, works: Sequence[EditorWork]) -> dict[str, Any]:
        """What the pipeline is called with for `works` of one bucket; single values for one, lists for several."""
        row = self.row

        def each(values: Sequence[Any]) -> Any:
            return values[0] if len(works) == 1 else list(values)

        pictures: list[Any] = [Image.fromarray(work.picture) for work in works]
        references = [[Image.fromarray(reference) for reference in work.references] for work in works]
        given = {
            "prompt": each([work.prompt for work in works]),
            "generator": each([torch.Generator("cpu").manual_seed(work.seed) for work in works]),
            "output_type": "np",
            **fixed_arguments(row, self.preset, self._settings),
            **size_arguments(row, works[0].bucket.size),
        }
        if row.reference and references[0]:
            given[row.reference] = each([pages[0] for pages in references])
        elif references[0]:
            pictures = [[picture, *pages] for picture, pages in zip(pictures, references, strict=True)]
        given[row.image] = each(pictures)
        if row.mask:
            given[row.mask] = each([Image.fromarray(_on_picture(work)) for work in works])
        return given

    def made(self, works: Sequence[EditorWork], pictures: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """The crops of what the pipeline made, `float32 (h, w, 3)` each: of four channels the first three.

        Raises:
            ItemError: `model.size`: it made another size than was asked for.
        """
        width, height = works[0].bucket.size
        if pictures.shape[1:3] != (height, width):
            raise ItemError(
                "model.size",
                f"{self._name} made {pictures.shape[2]}x{pictures.shape[1]} of a picture of {width}x{height}; its row "
                "in the table must say which sizes it keeps",
            )
        cut = [(work.window, picture) for work, picture in zip(works, pictures, strict=True)]
        return [np.ascontiguousarray(p[y0:y1, x0:x1, :3], np.float32) for (x0, y0, x1, y1), p in cut]


def own_size(pipeline: type, size: tuple[int, int]) -> tuple[int, int]:
    """The size nearest to `(width, height)` that a class which knows but one area keeps: by its module's own rule,
    which rounds, so that what it makes of a size it may resize once more."""
    rule = importlib.import_module(pipeline.__module__).calculate_dimensions
    for _ in range(_ROUNDINGS):
        width, height = (int(side) for side in rule(ONE_MP, size[0] / size[1])[:2])
        if (width, height) == size:
            return size
        size = width, height
    return size


def _on_picture(work: EditorWork) -> npt.NDArray[np.uint8]:
    mask = np.zeros(work.picture.shape[:2], np.uint8)
    x0, y0, x1, y1 = work.window
    mask[y0:y1, x0:x1] = work.mask * np.uint8(255)
    return mask


def _size(picture: U8Image) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def _control_tokens(pipeline: Any) -> Iterator[str]:
    for component in pipeline.components.values():
        tokenizer = getattr(component, "tokenizer", component)
        for added in getattr(tokenizer, "added_tokens_decoder", {}).values():
            if added.special:
                yield str(added)
