"""Who may ask the page's server for what. Requests are answered in-process; one test goes through a socket."""

import http.client
import json
import threading
from pathlib import Path

import pytest

from refine_ops.mark.folder import list_images
from refine_ops.mark.server import MAX_BODY_BYTES, Answer, Asked, MarkServer, MarkSite
from refine_ops.mark.session import MarkSession
from tests.mark.test_session import BOX, photo

BODY = json.dumps({"version": 0, "regions": [BOX]}).encode()


@pytest.fixture
def site(tmp_path: Path) -> MarkSite:
    photo(tmp_path / "photos" / "a.jpg")
    photo(tmp_path / "secret.jpg")
    photo(tmp_path / "brand" / "logo.png")
    references = list_images(str(tmp_path / "brand")).images
    session = MarkSession.open(
        str(tmp_path / "photos" / "manifest.jsonl"), list_images(str(tmp_path / "photos")), references
    )
    return MarkSite(session, 4321, "the-token")


def get(site: MarkSite, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    given = {"host": "127.0.0.1:4321"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return site.answer(Asked(method, path, given, body))


def change(site: MarkSite, body: bytes = BODY, **headers: str) -> Answer:
    given = {"origin": "http://127.0.0.1:4321", "content_type": "application/json"} | headers
    return get(site, "/the-token/api/image/0", "PUT", body, **given)


def test_the_page_gets_what_it_asks_for(site: MarkSite) -> None:
    for path in ("", "asset/main.js", "asset/konva.min.js", "asset/look.css", "api/folder", "api/image/0", "thumb/0"):
        assert get(site, f"/the-token/{path}").status == 200, path
    for path in ("view/0", "detail/0?box=1,2,30,40", "reference/0"):
        assert get(site, f"/the-token/{path}").body[:2] == b"\xff\xd8", path
    assert json.loads(change(site).body) == {"version": 1}
    assert json.loads(get(site, "/the-token/api/image/0").body)["regions"] == [BOX]


@pytest.mark.parametrize("path", ["/", "", "/the-toke", "/the-token2/", "/x/the-token/", "//the-token/", "/ü/"])
def test_nothing_is_told_without_the_token(site: MarkSite, path: str) -> None:
    answer = get(site, path)
    assert answer.status == 403
    assert b"the-token" not in answer.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4321", "127.0.0.1", "127.0.0.1:80", "", "[::1]:4321"])
def test_a_name_that_was_pointed_here_is_refused(site: MarkSite, host: str) -> None:
    assert get(site, "/the-token/", host=host).status == 403
    assert change(site, host=host).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:80"},
        {"origin": "https://127.0.0.1:4321"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
    ],
)
def test_no_other_site_can_change_anything(site: MarkSite, headers: dict[str, str]) -> None:
    assert change(site, **headers).status in (403, 415)
    assert json.loads(get(site, "/the-token/api/image/0").body)["regions"] == []


def test_a_change_without_an_origin_is_refused(site: MarkSite) -> None:
    assert get(site, "/the-token/api/image/0", "PUT", BODY, content_type="application/json").status == 403


@pytest.mark.parametrize(
    "path",
    [
        "asset/../server.py",
        "asset/%2e%2e%2fserver.py",
        "asset/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "asset//etc/passwd",
        "view/../../secret.jpg",
        "view/..%2f..%2fsecret.jpg",
        "view/-1",
        "view/1",
        "view/99999999999999999999",
        "view/%00",
        "view/٣",
        "reference/1",
        "mask/0?uri=/etc/passwd",
        "mask/0?uri=../secret.jpg",
        "detail/0?box=1,2",
        "detail/0?box=9000,9000,9001,9001",
        "api/nothing",
        "..%2f",
    ],
)
def test_no_path_leads_to_another_file(site: MarkSite, path: str) -> None:
    answer = get(site, f"/the-token/{path}")
    assert answer.status in (404, 422)
    assert set(json.loads(answer.body)) == {"error"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"version": 0}',
        b'{"version": 0, "regions": [{"region_id": "1"}]}',
        json.dumps({"version": 0, "regions": [BOX] * 257}).encode(),
        json.dumps({"version": 0, "regions": [BOX | {"surprise": 1}]}).encode(),
        b'{"version": 0, "regions": [{"region_id":"1","prompt":"x","box":[1,2,3,1e999]}]}',
        b'{"version": 0, "regions": ' + b"[" * 100_000,
        json.dumps({"version": 0, "regions": [BOX | {"region_id": "two\nlines"}]}).encode(),
        json.dumps({"version": 0, "regions": [BOX | {"prompt": "x" * 5000}]}).encode(),
        json.dumps({"version": 0, "regions": [BOX, BOX]}).encode(),
    ],
)
def test_a_body_that_is_none_changes_nothing(site: MarkSite, body: bytes) -> None:
    assert change(site, body).status == 422
    assert json.loads(get(site, "/the-token/api/image/0").body)["regions"] == []


@pytest.mark.processes
def test_the_real_server_binds_this_machine_alone_and_forbids_everything_else(site: MarkSite) -> None:
    with MarkServer(site.session) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        assert server.server_address[0] == "127.0.0.1"
        assert len(server.site.token) >= 43  # 256 bits
        path, origin = f"/{server.site.token}", f"http://127.0.0.1:{server.site.port}"
        connection = http.client.HTTPConnection("127.0.0.1", server.site.port, timeout=10)

        def ask(method: str, target: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
            connection.request(method, target, body or None, headers)
            answer = connection.getresponse()
            answer.body = answer.read()  # type: ignore[attr-defined]
            return answer

        page = ask("GET", f"{path}/")
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Server"] == "refine-ops"
        sent = {"Origin": origin, "Content-Type": "application/json"}
        assert ask("PUT", f"{path}/api/image/0", BODY, **sent).status == 200
        assert ask("POST", f"{path}/api/image/0", BODY, **sent).status == 501
        for length in (str(MAX_BODY_BYTES + 1), "9" * 5000, "-1", "1_0"):
            refused = ask("PUT", f"{path}/api/image/0", BODY, **sent, **{"Content-Length": length})
            assert refused.status in (411, 413)
            connection.close()
        assert ask("PUT", "/guess/api/image/0", BODY, **sent).status == 403
        server.shutdown()
        thread.join()
