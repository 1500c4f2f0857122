"""A real time-stamp authority (RFC 3161) on the loopback: openssl answers."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.certificates import Identity
from tests.support.programs import program
from tests.support.servers.http import QuietHandler, serving

_CONFIG = """
[tsa]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


@contextmanager
def stamping(authority: Identity, folder: Path) -> Iterator[str]:
    """Its URL. What it was asked and answered lies in `folder`."""
    openssl, config = program("openssl"), folder / "tsa.conf"
    config.write_text(_CONFIG.format(folder=folder))
    (folder / "serial").write_text("01")

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            query, reply = folder / "query.tsq", folder / "reply.tsr"
            query.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
            command = [
                *(openssl, "ts", "-reply", "-config", config, "-section", "tsa", "-queryfile", query, "-out", reply),
                *("-signer", authority.chain, "-chain", authority.chain, "-inkey", authority.key),
            ]
            done = subprocess.run(command, capture_output=True, check=False)
            data = reply.read_bytes() if done.returncode == 0 else done.stderr
            self.answer(200 if done.returncode == 0 else 500, data, **{"Content-Type": "application/timestamp-reply"})

    with serving(Handler) as url:
        yield url
