"""Semantic similarity of the refined box to the ground truth: DINOv2's CLS token and CLIP's image embedding.

The paper uses dinov2-large and clip-vit-large-patch14-336. Each model's own image processor prepares the crops, so a
box that is not square loses what its centre crop cuts off, as in the usual evaluation scripts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from refine_ops.eval.metrics.metric import CaseBatch, Meter, Metric, MissingMeter, Scores
from refine_ops.model.pretrained import is_here, load

DINO = Metric("dino", 1, "DINO", "higher", "region", "cosine of DINOv2's CLS tokens of the boxes")
CLIP = Metric("clip", 1, "CLIP", "higher", "region", "cosine of CLIP's image embeddings of the boxes")


@dataclass(frozen=True, slots=True)
class FeatureMeter:
    """Cosine similarity of one embedding."""

    metric: Metric
    processor: Any
    embed: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    source: str
    repeatable: bool = True
    missing: str = ""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (self.metric,)

    @torch.inference_mode()
    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        crops = np.concatenate([batch.crop(batch.outputs), batch.crop(batch.target)])
        pixels = self.processor(images=list(crops), return_tensors="pt")["pixel_values"].to(self.device)
        ours, truth = torch.nn.functional.normalize(self.embed(pixels).double(), dim=-1).chunk(2)
        return {self.metric.name: (ours * truth).sum(-1).cpu().numpy()}


def feature_meters(dino: str, clip: str, allow_hub: bool, device: torch.device) -> list[Meter]:
    """DINO and CLIP from folders or hub names; absent ones as missing."""
    return [_load(DINO, dino, allow_hub, device), _load(CLIP, clip, allow_hub, device)]


def _load(metric: Metric, source: str, allow_hub: bool, device: torch.device) -> Meter:
    if not (allow_hub or is_here(source)):
        return MissingMeter((metric,), f"no weights: {source} is no folder here and metrics.allow_hub is not set")
    import transformers

    auto = transformers.AutoModel if metric is DINO else transformers.CLIPModel
    model: Any = load(auto, source, allow_hub, weights=True, half=False)
    processor = load(transformers.AutoImageProcessor, source, allow_hub)
    model = model.eval().requires_grad_(False).to(device)

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        if metric is DINO:
            cls: torch.Tensor = model(pixel_values=pixels).last_hidden_state[:, 0]
            return cls
        found = model.get_image_features(pixel_values=pixels)
        image: torch.Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
        return image

    return FeatureMeter(metric, processor, embed, device, source)
