"""The tiny checkpoint's tokenizer and processor: Qwen2's classes over a small byte-level vocabulary of our own.

Words of the pipeline's template and of usual refinement prompts are single tokens, any other text falls back to
bytes. As with Qwen's own vocabulary the template's system part is 64 tokens, which the pipeline drops by that number.
"""

import json

from diffusers import QwenImageEditPlusPipeline
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY = 1024


def template() -> str:
    """The pipeline's prompt template, read from the installed diffusers."""
    constants = QwenImageEditPlusPipeline.__init__.__code__.co_consts
    return next(text for text in constants if isinstance(text, str) and "<|im_start|>system" in text)


def new_tokenizer(prompts: list[str]) -> Qwen2Tokenizer:
    """Byte-pair encoding trained on the template and `prompts`; the same texts give the same vocabulary."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    plain = template()
    for token in SPECIAL_TOKENS:
        plain = plain.replace(token, "")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([plain, "Picture 1: Picture 2: Picture 3:"] * (2 * len(prompts) + 2) + prompts, trainer)
    state = json.loads(bpe.to_str())["model"]
    vocabulary: dict[str, int] = state["vocab"]
    vocabulary |= {token: len(vocabulary) + index for index, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in state["merges"]])
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS[1:])})
    return tokenizer


def new_processor(tokenizer: Qwen2Tokenizer) -> Qwen2VLProcessor:
    """Images of at least one 28 px token and at most 256 of them; sides are rounded to 28 px as in the full model."""
    limits = {"shortest_edge": 28 * 28, "longest_edge": 256 * 28 * 28}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
    )


def special_ids(tokenizer: Qwen2Tokenizer) -> dict[str, int]:
    """Ids of the special tokens by name."""
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS}
