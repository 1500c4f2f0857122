"""A real HTTP server that speaks OpenAI's `images/edits`: what is answered is a function of the form that came."""

import base64
import email.parser
import email.policy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from PIL import Image

from tests.support.servers.http import QuietHandler, serving


@dataclass
class EditForm:
    """One request as it arrived: text fields, pictures in their order by field name, and the headers."""

    fields: dict[str, str]
    pictures: list[tuple[str, Image.Image]]
    headers: dict[str, str]

    def named(self, name: str) -> list[Image.Image]:
        return [picture for known, picture in self.pictures if known == name]


@dataclass
class ImagesServer:
    base_url: str
    forms: list[EditForm] = field(default_factory=list)


def answered(picture: np.ndarray) -> tuple[int, bytes]:
    """A success with this picture."""
    out = BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return 200, json.dumps({"data": [{"b64_json": base64.b64encode(out.getvalue()).decode()}]}).encode()


@contextmanager
def serve_images(answer: Callable[[EditForm, int], tuple[int, bytes]]) -> Iterator[ImagesServer]:
    """`answer(form, number of the request)` gives status and body; requests are recorded in order."""

    server = ImagesServer("")

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/images/edits"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            form = _parsed(self.headers["Content-Type"], body, dict(self.headers))
            server.forms.append(form)
            self.answer(*answer(form, len(server.forms) - 1))

    with serving(Handler) as url:
        server.base_url = f"{url}/v1"
        yield server


def _parsed(kind: str, body: bytes, headers: dict[str, str]) -> EditForm:
    """The parts of multipart/form-data, read by the standard library's mail parser."""
    whole = b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(whole)
    fields, pictures = {}, []
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        if part.get_filename():
            picture = Image.open(BytesIO(data))
            picture.load()
            pictures.append((name, picture))
        else:
            fields[name] = data.decode()
    return EditForm(fields, pictures, headers)
