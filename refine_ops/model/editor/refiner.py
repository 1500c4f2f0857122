"""The editor as a refiner: crops in, patches out, by the pipeline's own call, each item with its own noise."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from refine_ops.config import ModelSettings
from refine_ops.errors import ItemError
from refine_ops.model.editor.call import EditorBucket, EditorCall, EditorWork
from refine_ops.model.editor.load import load_pipeline
from refine_ops.model.load import model_dtype
from refine_ops.model.presets import EditorPreset
from refine_ops.model.run.memory import MemoryLadder, Work
from refine_ops.model.source import ResolvedModel
from refine_ops.records import Conditioning, F32Image, Patch, ReferencePolicy

logger = logging.getLogger(__name__)

_BATCH_PX: Final = 1 << 20
"""Pixels of one call on a GPU: 1 crop of 1024^2, 4 of 512^2, 16 of 256^2, as our own refiner's buckets."""
_LARGEST_BATCH: Final = 16


@dataclass(frozen=True, slots=True)
class _Place:
    position: int
    work: EditorWork


class EditorRefiner:
    """A loaded pipeline behind the `Refiner` seam. Not thread-safe, except for `prepare`.

    An item's patch is what the pipeline's own call gives for it, at the batch size and the step-down recorded.
    """

    def __init__(self, pipeline: Any, preset: EditorPreset, settings: ModelSettings, device: torch.device) -> None:
        self._pipeline, self._settings, self._device = pipeline, settings, device
        self._call = EditorCall(pipeline, preset, settings)
        self._memory, self._offloaded = MemoryLadder(), settings.offload

    @property
    def preset(self) -> EditorPreset:
        """As in force, after the class's signature and the weights' own schedule were read."""
        return self._call.preset

    @property
    def grid_px(self) -> int:
        """Sides of crops are multiples of this."""
        return self.preset.grid_px

    @property
    def focus_pixels(self) -> int:
        """The preset's pixel budget for one crop."""
        return self.preset.focus_pixels

    @property
    def tile_zoom(self) -> float:
        """Below which the preset has regions split into tiles."""
        return self.preset.tile_zoom

    @property
    def reference(self) -> ReferencePolicy:
        """How the preset wants its references."""
        return self.preset.reference

    def batch_size(self, bucket: EditorBucket) -> int:
        """Items per call: as set, else by their pixels (1 on a CPU, and of a class that takes no lists)."""
        return self._memory.footprint(self._work(bucket)).batch_size

    def prepare(self, item: Conditioning) -> EditorWork:
        """
        Raises:
            ItemError: the pipeline cannot be given this region; the reason names what.
        """
        return self._call.work(item)

    def refine(self, batch: Sequence[Conditioning]) -> list[Patch]:
        """Refine crops, in any number and mixture; patches come in the order of `batch`."""
        return self.refine_prepared([self.prepare(item) for item in batch])

    def refine_prepared(self, batch: Sequence[EditorWork]) -> list[Patch]:
        """Refine what `prepare` made; see `refine`."""
        buckets: dict[EditorBucket, list[_Place]] = defaultdict(list)
        for position, work in enumerate(batch):
            buckets[work.bucket].append(_Place(position, work))
        patches: dict[int, Patch] = {}
        for bucket, places in buckets.items():
            done = 0
            while done < len(places):
                step = places[done : done + self.batch_size(bucket)]
                made = self._run([place.work for place in step])
                if made is None:
                    if self._device.type == "cuda":
                        torch.cuda.empty_cache()
                    self._memory.step_down(self._work(bucket))
                    continue
                patches |= {place.position: patch for place, patch in zip(step, made, strict=True)}
                done += len(step)
        return [patches[position] for position in range(len(batch))]

    @torch.no_grad()
    def _run(self, works: list[EditorWork]) -> list[Patch] | None:
        """One call, filled up to the batch size; None if device memory ran out."""
        kind = self._work(works[0].bucket)
        footprint = self._memory.footprint(kind)
        padded = (works * footprint.batch_size)[: footprint.batch_size]
        try:
            self._step_to(footprint.vae_tiling, footprint.offload)
            pictures = np.asarray(self._pipeline(**self._call.arguments(padded)).images, np.float32)
            roundtrips = self._roundtrip(padded)
        except torch.OutOfMemoryError:
            return None
        crops = self._call.made(padded, pictures)[: len(works)]
        if not all(np.isfinite(crop).all() for crop in crops):
            raise ItemError(
                "model.not_finite", "the model produced values that are not finite; try dtype float32 or another seed"
            )
        return [
            Patch(
                pixels=crop,
                # An inpainting pipeline puts the crop's own latents back around the mask: nothing was made there.
                generated=work.mask.copy() if self._call.row.mask else np.ones(crop.shape[:2], np.bool_),
                batch_size=footprint.batch_size,
                step_down=self._memory.label(kind),
                roundtrip=roundtrip,
            )
            for crop, work, roundtrip in zip(crops, works, roundtrips, strict=False)
        ]

    def _step_to(self, tiling: bool, offload: bool) -> None:
        vae: Any = getattr(self._pipeline, "vae", None)
        if hasattr(vae, "enable_tiling"):
            vae.enable_tiling() if tiling else vae.disable_tiling()
        if offload and not self._offloaded:  # and never back within a run: moving costs seconds, not a pixel
            self._pipeline.enable_model_cpu_offload(device=self._device)
            self._offloaded = True

    def _roundtrip(self, works: Sequence[EditorWork]) -> list[F32Image] | list[None]:
        """The pictures as they come back from the pipeline's autoencoder; that scales its latents, which cancels."""
        if self._call.row.autoencoder == "none":
            return [None] * len(works)
        vae, dtype = self._pipeline.vae, self._pipeline.vae.dtype
        pictures = torch.from_numpy(np.stack([work.picture for work in works])).permute(0, 3, 1, 2).float() / 127.5 - 1
        channels = vae.config.get("in_channels") or vae.config.get("input_channels") or 3
        if channels == 4:
            pictures = torch.cat([pictures, torch.ones_like(pictures[:, :1])], dim=1)
        pictures = pictures.to(self._device, dtype)
        frame = self._call.row.autoencoder == "frame"
        encoded = vae.encode(pictures.unsqueeze(2) if frame else pictures)
        back = vae.decode(encoded.latent_dist.mode(), return_dict=False)[0]
        back = ((back[:, :, 0] if frame else back).float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        found: list[F32Image] = self._call.made(works, back)
        return found

    def _work(self, bucket: EditorBucket) -> Work:
        return bucket.size, self._planned(bucket)

    def _planned(self, bucket: EditorBucket) -> int:
        if self._settings.batch_size is not None:
            return self._settings.batch_size
        if self._device.type != "cuda" or not self._call.row.batched:
            return 1
        fitting = max(1, _BATCH_PX // (bucket.size[0] * bucket.size[1]))
        return min(_LARGEST_BATCH, 1 << (fitting.bit_length() - 1))


def load_editor(model: ResolvedModel, settings: ModelSettings, device: torch.device) -> EditorRefiner:
    """Load the editor that was resolved onto `device`.

    Raises:
        JobError: Missing or unfit files, arguments that its class does not take, too little device memory.
    """
    assert isinstance(model.preset, EditorPreset)
    pipeline = load_pipeline(model, settings, device, model_dtype(settings, device))
    return EditorRefiner(pipeline, model.preset, settings, device)
