"""`refine-ops mark`, typed: what it prints, and how the browser is told where the page is."""

import re
import stat
import webbrowser
from pathlib import Path
from urllib.request import url2pathname

import pytest

from refine_ops.mark.server import MarkServer
from tests.mark.test_session import BOX, photo, put
from tests.support.typed import typed

pytestmark = pytest.mark.processes


def test_the_command_says_where_the_page_is_and_what_to_type_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo(tmp_path / "photos" / "a.jpg")
    opened: list[tuple[str, str, int]] = []

    def look(address: str) -> bool:
        door = Path(url2pathname(address.removeprefix("file://")))
        opened.append((address, door.read_text(), stat.S_IMODE(door.parent.stat().st_mode)))
        return True

    def serve(server: MarkServer, poll_interval: float) -> None:
        put(server.site.session, 0, BOX)
        raise KeyboardInterrupt

    monkeypatch.setattr(webbrowser, "open", look)
    monkeypatch.setattr(MarkServer, "serve_forever", serve)
    monkeypatch.chdir(tmp_path)
    done = typed("mark", "photos")
    assert done.returncode == 0, done.stderr
    assert "1 image; 0 regions on 0 images in photos/manifest.jsonl" in done.stdout
    assert "\n1 region on 1 image in photos/manifest.jsonl" in done.stdout
    assert "refine them   refine-ops run photos/manifest.jsonl" in done.stdout
    [(address, door, mode)] = opened
    url = re.search(r"http://127\.0\.0\.1:\d+/([\w-]{43})/", done.stdout)
    assert url is not None
    assert url[0] in door
    assert url[1] not in address  # everybody on the machine can read a command line
    assert mode == 0o700
    assert typed("check", "photos/manifest.jsonl", "--open").returncode == 0

    assert typed("mark", "photos/a.jpg", "--no-browser").stdout.startswith("1 image; 1 region on 1 image in")
    assert len(opened) == 1


def test_what_cannot_be_marked_is_said(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.jpg")
    for arguments, said in (
        (["mark", str(tmp_path / "none")], "no such folder"),
        (["mark", str(tmp_path / "photos"), "--manifest", "s3://shop/m.jsonl"], "local file"),
        (["mark", str(tmp_path / "photos"), "--manifest", "m.xlsx"], "a manifest's name ends in"),
        (["mark", str(tmp_path / "photos"), "--references", str(tmp_path / "none")], "no such folder"),
    ):
        done = typed(*arguments)
        assert done.returncode == 2
        assert said in done.stderr
