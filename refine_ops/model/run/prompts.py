"""Prompt embeddings of a batch, remembered by prompt and thumbnails."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F

from refine_ops.model.inputs import TextInput
from refine_ops.model.load import Networks
from refine_ops.model.stages import encode_prompts

CACHE_BYTES: Final = 256 << 20
"""Embeddings kept on the device: about 50 at Qwen-Image-Edit's size (5 MB each)."""

PictureTokens = tuple[torch.Tensor, torch.Tensor]
"""`pixel_values (patches, 1176)` and `grid_thw (n, 3)` of one item."""


class PromptEncoder:
    """Encode the prompts of batches of fixed size; equal prompts over equal thumbnails are encoded once.

    The number of rows and their padded length are part of the cache's key: an embedding from another batch shape may
    differ in its last bits, and bytes must not depend on what was cached.

    Args:
        before: Called before anything is encoded: the encoder may be away while all prompts are known.
    """

    def __init__(self, networks: Networks, device: torch.device, before: Callable[[], None] = lambda: None) -> None:
        self._networks, self._before = networks, before
        self._device = device
        self._cache: OrderedDict[tuple[str, int, int], torch.Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(
        self, texts: Sequence[TextInput], pictures: Sequence[PictureTokens], length: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed a batch: `(B, length, D)` and the mask of its tokens, `bool (B, length)`."""
        keys = [(text.key, length, len(texts)) for text in texts]
        missing = list({key: row for row, key in reversed(list(enumerate(keys))) if key not in self._cache}.values())
        fresh: dict[tuple[str, int, int], torch.Tensor] = {}
        if missing:
            self._before()
            rows = (missing * len(texts))[: len(texts)]
            embeds = self._encode([texts[row] for row in rows], [pictures[row] for row in rows], length)
            fresh = {keys[row]: embeds[at] for at, row in enumerate(missing)}
        batch = torch.stack([self._recall(key, fresh) for key in keys])
        counts = torch.tensor([len(text.ids) - self._networks.template_tokens for text in texts])
        mask = torch.arange(length)[None] < counts[:, None]
        return batch, mask.to(self._device)

    def _encode(self, texts: Sequence[TextInput], pictures: Sequence[PictureTokens], length: int) -> torch.Tensor:
        total = length + self._networks.template_tokens
        pad = self._networks.processor.tokenizer.pad_token_id
        ids = torch.stack([F.pad(text.ids, (0, total - len(text.ids)), value=pad) for text in texts])
        mask = torch.stack([(torch.arange(total) < len(text.ids)).long() for text in texts])
        return encode_prompts(
            self._networks.text_encoder,
            ids.to(self._device),
            mask.to(self._device),
            torch.cat([pixels for pixels, _ in pictures]).to(self._device),
            torch.cat([grid for _, grid in pictures]).to(self._device),
            self._networks.template_tokens,
        )

    def _recall(self, key: tuple[str, int, int], fresh: dict[tuple[str, int, int], torch.Tensor]) -> torch.Tensor:
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        embed = fresh[key].clone()
        self._cache[key] = embed
        self._bytes += embed.nbytes
        while self._bytes > CACHE_BYTES and len(self._cache) > 1:
            self._bytes -= self._cache.popitem(last=False)[1].nbytes
        return embed
