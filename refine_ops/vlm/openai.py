"""A client of the OpenAI chat protocol: JSON-schema answers, retries, token counts and a content-addressed cache.

Many servers speak it (vLLM, SGLang, llama.cpp, the closed models' compatible endpoints). An endpoint that stays down
stops the job (`EndpointDown`) rather than rejecting samples it never saw; the job resumes where it was.
"""

import base64
import hashlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx
import numpy as np

from refine_ops import storage
from refine_ops.config import cache_folder, vlm_endpoint
from refine_ops.errors import ItemError, JobError
from refine_ops.image.formats.png_pixels import encode_png
from refine_ops.records import U8Image
from refine_ops.vlm.config import OpenAiVlm
from refine_ops.vlm.patient import EndpointDown, ask_patiently
from refine_ops.vlm.questions import AnswerError, Question, ReplyT, Usage, parse, shrink, strict_schema

_BAD_REQUEST = "vlm.bad_request"


@dataclass(frozen=True, slots=True)
class _Answered:
    text: str
    input_tokens: int
    output_tokens: int


class OpenAiChat:
    """Implements `Chat` over HTTP. One per process; not shared between processes."""

    def __init__(self, settings: OpenAiVlm) -> None:
        base_url, key, model = vlm_endpoint()
        base_url, model = settings.base_url or base_url, settings.model or model
        if not base_url or not model:
            raise JobError(
                "no VLM endpoint: set REFINE_VLM_BASE_URL and REFINE_VLM_MODEL (and REFINE_VLM_API_KEY), "
                "or base_url and model in the configuration"
            )
        self._settings, self._model = settings, model
        self._url = base_url.rstrip("/") + "/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=settings.timeout_s, trust_env=True)
        self._cache = settings.cache or str(cache_folder() / "vlm")
        self._usage = Usage()
        self._form_taken = False

    @property
    def name(self) -> str:
        return f"{self._model}@{httpx.URL(self._url).host}"

    @property
    def usage(self) -> Usage:
        return self._usage

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, question: Question, reply: type[ReplyT]) -> ReplyT:
        body = self._body(question, reply)
        uri = self._cache_uri(body, question.repeat)
        cached = _read_cache(uri)
        if cached is not None:
            self._usage = replace(self._usage, cached=self._usage.cached + 1)
            return parse(cached, reply)
        answered = self._answer(body, question, reply)
        self._count(answered)
        value = parse(answered.text, reply)  # an unreadable answer is not cached: the next run may ask again
        entry = {"model": self._model, "answer": answered.text, "at": time.time()}
        storage.write(uri, json.dumps(entry).encode())
        return value

    def _answer(self, body: dict[str, Any], question: Question, reply: type[ReplyT]) -> _Answered:
        """One answer; a refused request is this question's fault only if the endpoint takes others of its form."""
        try:
            answered = self._post(body)
        except ItemError as refused:
            if refused.reason == _BAD_REQUEST and not self._form_taken:
                self._check_form(question, reply, refused)
            raise
        self._form_taken = True
        return answered

    def _check_form(self, question: Question, reply: type[ReplyT], refused: ItemError) -> None:
        """Ask the same about grey pictures.

        Raises:
            EndpointDown: that is refused as well, so every question would be.
        """
        grey = tuple(np.full((64, 64, 3), 128, np.uint8) for _ in question.images)
        try:
            self._post(self._body(replace(question, text="Answer with any values.", images=grey), reply))
        except AnswerError:
            pass
        except ItemError as e:
            raise EndpointDown(
                f"{refused}; it refuses the same request about plain grey pictures too: it may not take this model, "
                "images, JSON schemas (response_format) or max_tokens"
            ) from e
        self._form_taken = True

    def _body(self, question: Question, reply: type[ReplyT]) -> dict[str, Any]:
        pictures = [{"type": "image_url", "image_url": {"url": self._data_url(i)}} for i in question.images]
        schema = {"name": reply.__name__, "schema": strict_schema(reply), "strict": True}
        return {
            "model": self._model,
            "messages": [
                {"role": "system", "content": question.instructions},
                {"role": "user", "content": [{"type": "text", "text": question.text}, *pictures]},
            ],
            "response_format": {"type": "json_schema", "json_schema": schema},
            "temperature": question.temperature or 0,  # 0, not 0.0: answers are cached by this very text
            "seed": question.repeat,
            "max_tokens": self._settings.max_tokens,
        }

    def _data_url(self, image: U8Image) -> str:
        """PNG, because JPEG's own artefacts could be taken for the defect."""
        data = encode_png(shrink(image, self._settings.max_side_px))
        return "data:image/png;base64," + base64.b64encode(data).decode()

    def _cache_uri(self, body: dict[str, Any], repeat: int) -> str:
        text = json.dumps([self._url, body, repeat], sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        return storage.join(storage.resolve(self._cache), key[:2], f"{key}.json")

    def _post(self, body: dict[str, Any]) -> _Answered:
        """One answer, however many attempts it takes up to the limit."""
        response = ask_patiently(
            lambda: self._client.post(self._url, json=body), self._settings, self.name, self._retried
        )
        return _read(response, self.name)

    def _retried(self) -> None:
        self._usage = replace(self._usage, retries=self._usage.retries + 1)

    def _count(self, answered: _Answered) -> None:
        prices = self._settings.usd_per_million_input_tokens, self._settings.usd_per_million_output_tokens
        tokens = answered.input_tokens, answered.output_tokens
        cost = None if None in prices else sum(t * (p or 0) for t, p in zip(tokens, prices, strict=True)) / 1e6
        self._usage += Usage(1, 0, 0, *tokens, cost)


def _read_cache(uri: str) -> str | None:
    try:
        answer = json.loads(storage.read(uri))["answer"]
    except (storage.Missing, ValueError, KeyError, TypeError):
        return None
    return answer if isinstance(answer, str) else None


def _read(response: httpx.Response, name: str) -> _Answered:
    """The text of a completion.

    Raises:
        EndpointDown: 401, 403, 404 and the like: configuration, not the sample.
        ItemError: `vlm.bad_request` (400, 413, 422: this question's content, or the form of all).
        AnswerError: `vlm.unparsable`, `vlm.refused`, `vlm.truncated`.
    """
    if response.status_code in (400, 413, 422):
        raise ItemError(_BAD_REQUEST, f"{name}: HTTP {response.status_code}: {response.text[:300]}")
    if not response.is_success:
        raise EndpointDown(f"{name}: HTTP {response.status_code}: {response.text[:300]}; check URL, key and model")
    try:
        completion = response.json()
        choice = completion["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
        usage = completion.get("usage") or {}
        tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        raise AnswerError(
            "vlm.unparsable", f"{name}: not a chat completion: {response.text[:120]!r}", response.text
        ) from e
    if refusal or reason == "content_filter":
        raise AnswerError("vlm.refused", f"{name}: declined to answer: {refusal or reason}", str(refusal or text or ""))
    if not isinstance(text, str):
        raise AnswerError("vlm.unparsable", f"{name}: the completion has no text", response.text)
    if reason == "length":
        raise AnswerError("vlm.truncated", f"{name}: cut off after {tokens[1]} tokens; raise max_tokens", text)
    return _Answered(text, *tokens)
