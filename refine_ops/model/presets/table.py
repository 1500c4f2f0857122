"""The table of editors: per diffusers pipeline class, how a region goes in and what cannot.

One row per class is all that an editor needs. What a row does not name is refused by that name, and what it names must
be an argument of the class's `__call__`: both are checked before the first region (`editor/signature.py`). Torch is not
imported here, for who plans must know an editor's sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from refine_ops.model.presets.preset import Conditions

Sizing = Literal["given", "area", "resolution", "own", "none"]
Autoencoder = Literal["image", "frame", "none"]

ONE_MP: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class EditorRow:
    """How one pipeline class is called for a region.

    Attributes:
        module: Where the class is imported from; never from a checkpoint's folder.
        image: Argument of the crop.
        references: Reference pictures it takes beside the crop; more of them are refused.
        reference: Argument of a reference of its own; empty: references stand behind the crop, in a list.
        mask: Argument of the mask, white where the picture is made anew; empty: it sees none, and the paste alone keeps
            the change inside.
        takes: Settings it has an argument of the same name for: `negative_prompt`, `true_cfg_scale`, `guidance_scale`,
            `strength`. Others are refused.
        sizing: `given`: `height` and `width` are passed. `area`: they and `max_area`, or it takes its own area.
            `resolution`: they and `output_resolution`, to whose square it resizes what it sees. `own`: it always works
            at about `most_px`, whatever it is given: the crop is grown by mirroring to exactly the size it would take,
            so that it resizes nothing, and what it made is cut back. `none`: it keeps the crop's size unasked.
        grid_px: Sides of crops are multiples of this; of twice the pixels of a latent at least.
        least_px, most_px: Shortest side, and largest area, of a crop that it neither refuses nor resizes.
        usual_cfg: `true_cfg_scale` that its makers run it with.
        batched: It takes lists of equal size, and a picture does not depend on its company (tested).
        always: Further arguments that are always passed.
        caches: Arguments by `conditions`, where it can keep the conditions' keys and values between steps.
        schedule: Entry of the pipeline's configuration that fixes the steps, where weights bring one.
        prompt_tokens: Longest prompt, in tokens of the component `tokenizer`; it would silently cut longer ones.
        tokenizer: The component that counts them.
        autoencoder: Whether `vae` encodes pictures or videos of one frame: for the crop's round trip.
        inferred: The class is not in the table: its arguments are read off its signature.
    """

    module: str = "diffusers"
    image: str = "image"
    references: int = 0
    reference: str = ""
    mask: str = ""
    takes: frozenset[str] = frozenset()
    sizing: Sizing = "given"
    grid_px: int = 16
    least_px: int = 16
    most_px: int = ONE_MP
    usual_cfg: float = 1.0
    batched: bool = False
    always: Mapping[str, Any] = field(default_factory=dict)
    caches: Mapping[Conditions, Mapping[str, Any]] = field(default_factory=dict)
    schedule: str = ""
    prompt_tokens: int | None = None
    tokenizer: str = "tokenizer"
    autoencoder: Autoencoder = "image"
    inferred: bool = False


_KLEIN: Final = EditorRow(
    references=3,  # four pictures with the crop, as its makers count (docs/flux2_klein_kv_cache.md)
    takes=frozenset({"guidance_scale"}),  # a negative prompt it has none of: it is always empty
    least_px=64,
    prompt_tokens=480,  # 512 with the chat template's own
)
_KONTEXT: Final = EditorRow(
    takes=frozenset({"guidance_scale", "true_cfg_scale", "negative_prompt"}),
    sizing="area",
    most_px=4 * ONE_MP,
    batched=True,
    always={"_auto_resize": False},  # else the crop is stretched to one of 17 sizes
    prompt_tokens=512,
    tokenizer="tokenizer_2",
)
_QWEN: Final = EditorRow(
    takes=frozenset({"true_cfg_scale", "negative_prompt"}),
    grid_px=32,
    most_px=4 * ONE_MP,
    usual_cfg=4.0,
    autoencoder="frame",
)

TABLE: Final[dict[str, EditorRow]] = {
    "Flux2KleinPipeline": _KLEIN,
    "Flux2KleinKVPipeline": EditorRow(references=3, least_px=64, prompt_tokens=480, caches={"cached": {}}),  # always so
    "Flux2KleinInpaintPipeline": EditorRow(
        references=1,
        reference="image_reference",
        mask="mask_image",
        takes=frozenset({"guidance_scale", "strength"}),
        batched=True,
        prompt_tokens=480,
    ),
    "FluxKontextPipeline": _KONTEXT,
    "FluxKontextInpaintPipeline": EditorRow(
        references=1,
        reference="image_reference",  # in place of the crop, which it then sees through the mask alone
        mask="mask_image",
        takes=_KONTEXT.takes | {"strength"},
        sizing="area",
        most_px=4 * ONE_MP,
        batched=True,
        always=_KONTEXT.always,
        prompt_tokens=512,
        tokenizer="tokenizer_2",
    ),
    "QwenImageEditInpaintPipeline": EditorRow(
        mask="mask_image",
        takes=_QWEN.takes | {"strength"},
        sizing="own",
        grid_px=32,
        usual_cfg=4.0,
        autoencoder="frame",
    ),
    "QwenImageEditPipeline": _QWEN,  # it looks at the crop enlarged to 1 MP, and makes it at its own size
    "QwenImageEditPlusPipeline": replace(_QWEN, references=2),  # likewise
    "QwenImage21Pipeline": EditorRow(
        references=9,
        takes=_QWEN.takes,
        sizing="resolution",
        grid_px=32,
        most_px=4 * ONE_MP,
        caches={"joint": {"use_kv_cache": False}, "cached+text": {"use_kv_cache": True}},
        schedule="sample_sigmas",
        autoencoder="frame",
    ),
    "LongCatImageEditPipeline": EditorRow(
        takes=frozenset({"guidance_scale", "negative_prompt"}), sizing="own", prompt_tokens=512
    ),
}

INFERRED: Final = EditorRow(grid_px=32, most_px=4 * ONE_MP, autoencoder="none", inferred=True)
"""Any other pipeline of diffusers that takes a picture and a prompt, before its class was looked at."""


def row_of(pipeline: str) -> EditorRow:
    """The row of a class; of one that is not in the table, what can be said before it is imported."""
    return TABLE.get(pipeline, INFERRED)
