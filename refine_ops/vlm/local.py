"""A vision-language model run here, through transformers' image-text-to-text classes; repeatable."""

import json
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from refine_ops.model.pretrained import load, pick_device, transformers_class
from refine_ops.vlm.config import LocalVlm
from refine_ops.vlm.questions import Question, ReplyT, Usage, parse, shrink


class LocalChat:
    """Implements `Chat`. Nothing constrains decoding: an answer that is not the asked JSON is an `AnswerError`."""

    def __init__(self, settings: LocalVlm, rank: int = 0) -> None:
        self._settings, self._device = settings, pick_device(rank)
        self._processor = load(transformers_class("AutoProcessor"), settings.model, settings.allow_hub)
        model = load(
            transformers_class("AutoModelForImageTextToText"), settings.model, settings.allow_hub, weights=True
        )
        self._model = model.to(self._device).eval()
        self._usage = Usage()

    @property
    def name(self) -> str:
        return self._settings.model

    @property
    def usage(self) -> Usage:
        return self._usage

    def ask(self, question: Question, reply: type[ReplyT]) -> ReplyT:
        inputs = self.inputs(question, reply)
        length = inputs["input_ids"].shape[1]
        new = self._generate(inputs, question)[0, length:]
        self._usage = replace(
            self._usage,
            calls=self._usage.calls + 1,
            input_tokens=self._usage.input_tokens + length,
            output_tokens=self._usage.output_tokens + len(new),
        )
        return parse(self._processor.decode(new, skip_special_tokens=True), reply)

    def _generate(self, inputs: Any, question: Question) -> torch.Tensor:
        """Greedy at temperature 0; else sampled, with the repeat as seed, from the model's whole distribution."""
        options: dict[str, Any] = {"do_sample": False}
        if question.temperature > 0:
            options = {"do_sample": True, "temperature": question.temperature, "top_k": 0, "top_p": 1.0}
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(devices):
            torch.manual_seed(question.repeat)
            tokens: torch.Tensor = self._model.generate(
                **inputs, max_new_tokens=self._settings.max_new_tokens, **options
            )
        return tokens

    def inputs(self, question: Question, reply: type[ReplyT]) -> Any:
        """What the model is given, as its processor lays it out: the images first, then the text and the schema."""
        schema = json.dumps(reply.model_json_schema())
        text = f"{question.text}\nAnswer with one JSON object of this JSON schema and nothing else: {schema}"
        images = [{"type": "image", "image": self._picture(i)} for i in question.images]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": question.instructions}]},
            {"role": "user", "content": [*images, {"type": "text", "text": text}]},
        ]
        return self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(self._device)

    def _picture(self, image: Any) -> Image.Image:
        return Image.fromarray(shrink(image, self._settings.max_side_px))
