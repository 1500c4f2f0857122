"""A real HTTP proxy in front of an S3 server that does what networks and stores do on bad days.

Clients point `AWS_ENDPOINT_URL` at it. A `Fault` says which requests it strikes and how; each strikes `times` times.
"""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Literal

Kind = Literal[
    "500", "503", "slow-down", "timeout", "reset", "reset-mid-body", "short-read", "damaged-read", "damaged-write",
    "lost-answer", "expired", "denied", "unconditional", "slow",
]  # fmt: skip
SLOW_S: Final = 2.0
_ERRORS: Final = {
    "500": (500, "InternalError"),
    "503": (503, "ServiceUnavailable"),
    "slow-down": (503, "SlowDown"),
    "expired": (400, "ExpiredToken"),
    "denied": (403, "AccessDenied"),
}
_HOP: Final = ("connection", "transfer-encoding", "keep-alive", "content-length")


@dataclass(slots=True)
class Fault:
    """Strikes every `every`-th request of `method` whose path contains `path` and whose Authorization contains
    `key_id`."""

    kind: Kind
    method: str = ""
    path: str = ""
    times: int = 1
    key_id: str = ""
    every: int = 1
    struck: int = 0
    seen: int = 0

    def strikes(self, method: str, path: str, authorization: str) -> bool:
        if self.struck >= self.times or (self.method and method != self.method):
            return False
        if self.path not in path or self.key_id not in authorization:
            return False
        self.seen += 1
        return self.seen % self.every == 0


@dataclass(slots=True)
class Proxy:
    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, float]] = field(default_factory=list)
    """(method, path, monotonic time) of everything that came in."""


@contextmanager
def s3_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy to `upstream` (`http://host:port`) on a free port of its own."""
    host, port = upstream.removeprefix("http://").split(":")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            return

        def answer(self) -> None:
            body = self._body()
            fault = self._fault()
            if fault is not None and fault.kind in _ERRORS:
                self._error(*_ERRORS[fault.kind])
            elif fault is not None and fault.kind == "timeout":
                time.sleep(4.0)
                self._hang_up()
            elif fault is not None and fault.kind == "reset":
                self._hang_up()
            else:
                if fault is not None and fault.kind == "slow":
                    time.sleep(SLOW_S)
                if fault is not None and fault.kind == "damaged-write":
                    body = bytes([body[0] ^ 1]) + body[1:]
                self._forward(body, fault)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

        def _body(self) -> bytes:
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _fault(self) -> Fault | None:
            with lock:
                proxy.requests.append((self.command, self.path, time.monotonic()))
                for fault in proxy.faults:
                    if fault.strikes(self.command, self.path, self.headers.get("Authorization", "")):
                        fault.struck += 1
                        return fault
            return None

        def _error(self, status: int, code: str) -> None:
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def _hang_up(self) -> None:
            """Close with RST instead of FIN."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def _forward(self, body: bytes, fault: Fault | None) -> None:
            upstream_call = http.client.HTTPConnection(host, int(port), timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")}
            if fault is not None and fault.kind == "unconditional":
                headers.pop("If-None-Match", None)  # as stores do that do not know the condition
            upstream_call.request(self.command, self.path, body, headers)
            answer = upstream_call.getresponse()
            data = answer.read()
            upstream_call.close()
            if fault is not None and fault.kind == "lost-answer":
                self._hang_up()  # the store did what was asked, and nobody heard
                return
            if fault is not None and fault.kind == "damaged-read" and data:
                data = data[:-1] + bytes([data[-1] ^ 1])  # not the bit of a damaged write, which this would mend
            self.send_response(answer.status)
            length = answer.getheader("Content-Length") or str(len(data))
            for name, value in answer.getheaders():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            if fault is not None and fault.kind == "short-read":
                length = str(len(data) // 2)  # a store that believes in its own short body
                data = data[: len(data) // 2]
            self.send_header("Content-Length", length)
            self.end_headers()
            if fault is not None and fault.kind == "reset-mid-body":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self._hang_up()
            elif self.command != "HEAD":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    proxy = Proxy(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
