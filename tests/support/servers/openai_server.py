"""A real HTTP server that speaks the OpenAI chat protocol with scripted answers."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from refine_ops.records import U8Image
from tests.support.servers.http import QuietHandler, serving


@dataclass
class Answer:
    """What the server sends: `content` as a completion, or another status, or raw bytes; after `delay_s`."""

    content: str | None = None
    status: int = 200
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    finish_reason: str = "stop"
    refusal: str | None = None


def says(**values: Any) -> Answer:
    return Answer(json.dumps(values))


@dataclass
class Server:
    base_url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def text(self, index: int = -1) -> str:
        return str(self.requests[index]["messages"][1]["content"][0]["text"])

    def images(self, index: int = -1) -> list[U8Image]:
        parts = self.requests[index]["messages"][1]["content"][1:]
        return [decode_data_url(p["image_url"]["url"]) for p in parts]


def decode_data_url(url: str) -> U8Image:
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return np.ascontiguousarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1])


@contextmanager
def serve(answer: Callable[[dict[str, Any], int], Answer]) -> Iterator[Server]:
    """`answer(request body, number of the request)` decides; requests are recorded in order."""
    lock = threading.Lock()

    server = Server("")

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            with lock:
                server.requests.append(body)
                server.headers.append(dict(self.headers))
                number = len(server.requests) - 1
            reply = answer(body, number)
            time.sleep(reply.delay_s)
            message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
            completion = {
                "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 50},
            }
            data = reply.raw if reply.raw is not None else json.dumps(completion).encode()
            self.answer(reply.status, data, **reply.headers)

    with serving(Handler) as url:
        server.base_url = f"{url}/v1"
        yield server
