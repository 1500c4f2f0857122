"""Loading the configured stages, once per worker process."""

from dataclasses import dataclass

import numpy as np

from refine_ops.data.config import DiffusersInpainting, GivenGrounding, ManifestSource, ModelFree
from refine_ops.data.stages.degrade import Degrader, ModelFreeDegrader
from refine_ops.detect.config import DinoGrounding, GrabCutSegmentation, SamSegmentation, VlmGrounding
from refine_ops.detect.objects import Grounder
from refine_ops.detect.objects_vlm import VlmGrounder
from refine_ops.detect.segment import GrabCut, Segmenter
from refine_ops.vlm.config import LocalVlm, OpenAiVlm
from refine_ops.vlm.openai import OpenAiChat
from refine_ops.vlm.questions import Chat, Usage


@dataclass(frozen=True, slots=True)
class Stages:
    """Everything a sample passes through that is configured; `grounder` is None where the boxes are given, `validator`
    where nobody is asked."""

    grounder: Grounder | None
    segmenter: Segmenter
    degraders: tuple[Degrader, ...]
    weights: tuple[float, ...]
    validator: Chat | None
    chats: tuple[Chat, ...]

    @property
    def names(self) -> dict[str, str]:
        """Stage -> model, for provenance."""
        names = {"ground": "given" if self.grounder is None else self.grounder.name, "segment": self.segmenter.name}
        return names if self.validator is None else names | {"validate": self.validator.name}

    @property
    def usage(self) -> Usage:
        return sum((chat.usage for chat in self.chats), Usage())

    def draw_degrader(self, rng: np.random.Generator) -> Degrader:
        """One of the configured degraders, by weight."""
        weights = np.array(self.weights)
        return self.degraders[int(rng.choice(len(weights), p=weights / weights.sum()))]


def load_stages(source: ManifestSource, exclude: tuple[str, ...], rank: int) -> Stages:
    """Open every model the configuration names, on the rank's device; equal VLM settings share one model.

    Modules that need torch are imported where they are used: a worker without models starts seconds earlier.

    Raises:
        JobError: a model or endpoint cannot be opened.
    """
    chats: dict[OpenAiVlm | LocalVlm, Chat] = {}

    def chat(settings: OpenAiVlm | LocalVlm) -> Chat:
        if settings not in chats:
            chats[settings] = _chat(settings, rank)
        return chats[settings]

    ground = source.ground
    grounder = VlmGrounder(chat(ground.vlm), ground) if isinstance(ground, VlmGrounding) else _grounder(ground, rank)
    validator = None if source.validation.vlm is None else chat(source.validation.vlm)
    return Stages(
        grounder,
        _segmenter(source.segment, rank),
        tuple(_degrader(d, exclude, rank) for d in source.degrade),
        tuple(d.weight for d in source.degrade),
        validator,
        tuple(chats.values()),
    )


def _chat(settings: OpenAiVlm | LocalVlm, rank: int) -> Chat:
    if isinstance(settings, OpenAiVlm):
        return OpenAiChat(settings)
    from refine_ops.vlm.local import LocalChat

    return LocalChat(settings, rank)


def _grounder(settings: GivenGrounding | DinoGrounding, rank: int) -> Grounder | None:
    if isinstance(settings, GivenGrounding):
        return None
    from refine_ops.detect.objects_dino import DinoGrounder

    return DinoGrounder(settings, rank)


def _segmenter(settings: GrabCutSegmentation | SamSegmentation, rank: int) -> Segmenter:
    if isinstance(settings, GrabCutSegmentation):
        return GrabCut(settings)
    from refine_ops.detect.segment_sam import Sam

    return Sam(settings, rank)


def _degrader(settings: ModelFree | DiffusersInpainting, exclude: tuple[str, ...], rank: int) -> Degrader:
    if isinstance(settings, ModelFree):
        return ModelFreeDegrader(settings, exclude)
    from refine_ops.data.stages.inpaint import DiffusersDegrader

    return DiffusersDegrader(settings, rank)
