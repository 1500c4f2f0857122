"""The page's server: this machine alone, and of it only who knows the token.

Every request must name the token in its path and this server as its host (a name that an attacker's DNS points here is
refused); one that changes something must also come from the page itself, as JSON, which no form of another site can
send. Images are asked for by number and never by path.
"""

import hmac
import json
import logging
import secrets
import sys
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import ValidationError

from refine_ops.errors import ItemError, JobError, RefineError
from refine_ops.mark.regions import DEFAULT_PROMPT, PageRegions
from refine_ops.mark.session import MarkSession, Superseded
from refine_ops.records import MaskReading

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 16 << 20
_IDLE_S: Final = 60
_DIGITS: Final = 9
_ASSETS: Final = {
    "look.css": ("refine_ops.report.page", "templates/look.css"),
    "dom.js": ("refine_ops.report.page", "templates/dom.js"),
    **{
        name: ("refine_ops.mark", f"page/{name}")
        for name in ("mark.css", "konva.min.js", "store.js", "canvas.js", "panel.js", "grid.js", "main.js")
    },
}
_TYPES: Final = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    kind: str = "application/json"
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as far as it matters here; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class MarkSite:
    """Requests to answers; nothing here knows sockets. `port` and `token` are what every request must name."""

    session: MarkSession
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def refusal(self, asked: Asked) -> Answer | None:
        """Why a request is not from the page; None where it may be. Looked at before its body is read."""
        hosts = (f"127.0.0.1:{self.port}", f"localhost:{self.port}")
        if asked.headers.get("host", "") not in hosts:
            return _said(403, "this server is reached as 127.0.0.1 alone")
        first = asked.target.split("/", 2)[1:2]
        if not hmac.compare_digest((first[0] if first else "").encode(), self.token.encode()):
            return _said(403, "open the address that `refine-ops mark` printed: it holds the key to this page")
        origin = asked.headers.get("origin")
        if origin is not None and origin not in [f"http://{host}" for host in hosts]:
            return _said(403, "this request comes from another site")
        if asked.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return _said(403, "this request comes from another site")
        if asked.method == "PUT":
            if origin is None:
                return _said(403, "a change must come from the page")
            if asked.headers.get("content-type", "").split(";")[0].strip() != "application/json":
                return _said(415, "expected application/json")
        return None

    def answer(self, asked: Asked) -> Answer:
        """The answer to a request; errors are answers too."""
        refused = self.refusal(asked)
        if refused is not None:
            return refused
        split = urlsplit(asked.target)
        parts = [unquote(part) for part in split.path.split("/")[2:]]
        try:
            return self._routed(asked, parts, parse_qs(split.query))
        except Superseded as e:
            return _said(409, str(e))
        except (ItemError, ValidationError, ValueError) as e:
            return _said(422, _first_problem(e))
        except JobError as e:
            return _said(507, str(e))
        except RefineError as e:
            return _said(500, str(e))

    def _routed(self, asked: Asked, parts: list[str], query: dict[str, list[str]]) -> Answer:
        session = self.session
        match (asked.method, *parts):
            case ("GET", ""):
                return Answer(200, _asset("refine_ops.mark", "page/mark.html"), "text/html; charset=utf-8")
            case ("GET", "asset", name) if name in _ASSETS:
                return Answer(200, _asset(*_ASSETS[name]), _TYPES[name.rpartition(".")[2]])
            case ("GET", "api", "folder"):
                return _json({**session.overview(), "default_prompt": DEFAULT_PROMPT})
            case ("GET", "api", "image", number):
                return _json(session.image(_whole(number)))
            case ("PUT", "api", "image", number):
                sent = PageRegions.model_validate_json(asked.body)
                return _json({"version": session.put(_whole(number), sent)})
            case ("GET", "thumb", number):
                return _picture(session.pictures.thumb(session.uri_of(_whole(number))))
            case ("GET", "view", number):
                return _picture(session.pictures.view(session.uri_of(_whole(number))))
            case ("GET", "detail", number):
                x0, y0, x1, y1 = (_whole(v) for v in query.get("box", [""])[0].split(","))
                return _picture(session.pictures.detail(session.uri_of(_whole(number)), (x0, y0, x1, y1)))
            case ("GET", "mask", number):
                uri, resize = query.get("uri", [""])[0], "resize" in query
                png = session.mask_overlay(_whole(number), uri, _reading(query), resize=resize)
                return Answer(200, png, "image/png", cached=True)
            case ("GET", "reference", number):
                references = session.references
                if _whole(number) >= len(references):
                    return _said(404, "there is no such reference")
                return _picture(session.pictures.reference(references[_whole(number)].uri))
        return _said(404, "there is nothing here")


def _reading(query: dict[str, list[str]]) -> MaskReading:
    level, label = (_whole(query[name][0]) if name in query else None for name in ("level", "class"))
    return MaskReading(level, label, "invert" in query)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS:
        raise ItemError("request.invalid", f"expected a whole number, got {text[:20]!r}")
    return int(text)


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value, separators=(",", ":")).encode())


def _said(status: int, message: str) -> Answer:
    return _json({"error": message}, status)


def _picture(data: bytes) -> Answer:
    return Answer(200, data, "image/jpeg", cached=True)


def _first_problem(e: Exception) -> str:
    if isinstance(e, ValidationError):
        first = e.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(e)


@cache
def _asset(package: str, name: str) -> bytes:
    return resources.files(package).joinpath(name).read_bytes()


class _Handler(BaseHTTPRequestHandler):
    """Sockets to `MarkSite` and back."""

    site: MarkSite
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        self._send(self.site.answer(self._asked()))

    def do_PUT(self) -> None:
        refused = self.site.refusal(self._asked())
        length = self.headers.get("Content-Length", "")
        if refused is None and (not length.isascii() or not length.isdigit()):
            refused = _said(411, "the length of the body is not said")
        if refused is None and (len(length) > _DIGITS or int(length) > MAX_BODY_BYTES):
            refused = _said(413, f"{length[:_DIGITS]} bytes or more, at most {MAX_BODY_BYTES}: simplify what is drawn")
        if refused is not None:
            self.close_connection = True  # its body is not read
            self._send(refused)
            return
        self._send(self.site.answer(self._asked(self.rfile.read(int(length)))))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.close_connection = True
        self._send(_said(code, message or "this request is not understood"))

    def log_message(self, *_: Any) -> None:
        """Nothing: a request's line holds the token."""

    def version_string(self) -> str:
        return "refine-ops"

    def _asked(self, body: bytes = b"") -> Asked:
        return Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)

    def _send(self, answer: Answer) -> None:
        try:
            self.send_response(answer.status)
            headers = _HEADERS | ({"Cache-Control": "private, max-age=600"} if answer.cached else {})
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the page went on to another image


class MarkServer(ThreadingHTTPServer):
    """The site on 127.0.0.1. `serve_forever` serves it, `shutdown` ends that, and leaving the `with` closes it.

    Raises:
        JobError: the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, session: MarkSession, port: int = 0) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as e:
            raise JobError(f"port {port}: {e.strerror or e}; choose another with --port") from e
        self.site = MarkSite(session, self.server_address[1], secrets.token_urlsafe(32))
        self.RequestHandlerClass = type("_BoundHandler", (_Handler,), {"site": self.site})

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is no news; anything else is a defect, and the request's line holds the token."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            logger.error("a request could not be answered", exc_info=True)

    def server_close(self) -> None:
        super().server_close()
        self.site.session.close()
