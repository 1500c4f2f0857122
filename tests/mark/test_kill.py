"""The server is killed at any moment while regions are drawn: what it acknowledged is in the manifest.

Last slow run, 30 kills: 2026-11-27, 72b82a4, beside other work: passed in 108 s.
"""

import http.client
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from refine_ops.job.planning.manifest import read_items
from refine_ops.records import Item
from tests.mark.test_session import BOX, photo

pytestmark = pytest.mark.processes

SERVE = """
import sys
from pathlib import Path
from tests.support.mark_page import served
with served(Path(sys.argv[1]), Path(sys.argv[1])) as address:
    print(address, flush=True)
    sys.stdin.read()
"""


def changes(address: str, until: float, number: int) -> int:
    """Send change after change until the server is gone; returns the last one that was acknowledged. Each image's box
    says how many changes there were, and its painted dot moves with it."""
    split = urlsplit(address)
    connection = http.client.HTTPConnection(split.netloc, timeout=10)
    headers = {"Origin": f"http://{split.netloc}", "Content-Type": "application/json"}
    acknowledged = number
    while time.monotonic() < until + 5:
        number += 1
        dot = {"points": [[number % 64, number % 48]], "width": 5}
        regions = [BOX | {"box": [0, 0, 64, 48], "prompt": str(number)}]
        regions.append({"region_id": "dot", "prompt": "x", "mask": {"base": None, "strokes": [dot]}})
        body = json.dumps({"version": 0, "tab": "t", "regions": regions})
        try:
            connection.request("PUT", f"{split.path}api/image/{number % 3}", body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except (OSError, http.client.HTTPException):
            return acknowledged
        assert answer.status == 200, said
        acknowledged = number
    raise AssertionError("the server was not killed")


@pytest.mark.slow
def test_whatever_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / f"{name}.png")
    rng, number, killed = random.Random(0), 0, 0
    for _ in range(30):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        wait_s = rng.uniform(0.02, 0.6)
        subprocess.Popen(["sh", "-c", f"sleep {wait_s}; kill -9 {process.pid}"])
        acknowledged = changes(address, time.monotonic() + wait_s, number)
        assert process.wait(20) == -signal.SIGKILL
        killed += 1
        found = list(read_items(str(tmp_path / "manifest.jsonl")))
        assert all(isinstance(item, Item) for item in found)
        latest = max(int(item.regions[0].prompt) for item in found if isinstance(item, Item))
        assert acknowledged <= latest <= acknowledged + 1  # the one in flight may be there or not
        for item in found:
            assert isinstance(item, Item)
            of = int(item.regions[0].prompt)
            mask = np.asarray(Image.open(str(item.regions[1].mask)))
            assert mask[min(of % 48, 47), min(of % 64, 63)] == 255
        number = latest
    assert killed == 30
    assert number > 100
