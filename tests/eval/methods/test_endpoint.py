"""A closed model behind an endpoint, as a method: what is sent, what comes back, and what is paid."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import EvalInput, LoadedInput
from refine_ops.eval.config import EndpointMethod
from refine_ops.eval.methods.endpoint import EditEndpoint
from refine_ops.eval.methods.method import MethodOutput
from refine_ops.image.read import decode
from refine_ops.vlm.patient import EndpointDown
from tests.support.made_files import png
from tests.support.servers.images_server import EditForm, answered, serve_images

pytestmark = pytest.mark.processes

SIZES = ((96, 64), (64, 96), (64, 64))


def brighter(form: EditForm, _: int) -> tuple[int, bytes]:
    """A model that does as it is told: brighter where the mask is transparent."""
    picture = np.asarray(form.pictures[0][1].convert("RGB")).astype(int)
    open_ = np.asarray(form.named("mask")[0])[..., 3] == 0
    return answered(np.where(open_[..., None], np.minimum(picture + 60, 255), picture).astype(np.uint8))


@pytest.fixture
def loaded(photo: np.ndarray) -> LoadedInput:
    image = np.ascontiguousarray(photo[100:160, 200:300])
    mask = np.zeros(image.shape[:2], bool)
    mask[20:40, 30:70] = True
    item = EvalInput(**dict.fromkeys(EvalInput.__dataclass_fields__, ""))  # type: ignore[arg-type]
    item = replace(item, input_id="case-0", instruction="Refine the patch", width=100, height=60)
    return LoadedInput(item, png(image), image, image, mask, b"", photo[:40, :50].copy(), b"")


def method(base_url: str, folder: Path, **settings: object) -> EditEndpoint:
    given = {"name": "closed", "base_url": base_url, "model": "m-1", "sizes": SIZES, "backoff_s": 0.0} | settings
    return EditEndpoint(EndpointMethod(cache=str(folder / "cache"), **given), ImageLimits())  # type: ignore[arg-type]


def shown(made: MethodOutput | ItemError) -> np.ndarray:
    assert isinstance(made, MethodOutput), made
    return decode(made.data, name="made", limits=ImageLimits()).rgb


def test_the_region_is_asked_for_and_comes_back_where_it_lies(
    loaded: LoadedInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFINE_IMAGES_API_KEY", "secret-key")
    with serve_images(brighter) as server:
        asked = method(server.base_url, tmp_path, extra={"quality": "high"}, prompt="Please: {instruction}")
        (made,) = asked.run([loaded])
    (form,) = server.forms
    assert form.headers["Authorization"] == "Bearer secret-key"
    assert form.fields == {
        "model": "m-1", "prompt": "Please: Refine the patch", "size": "96x64", "n": "1", "quality": "high"
    }  # fmt: skip
    assert [name for name, _ in form.pictures] == ["image[]", "image[]", "mask"]
    assert form.pictures[0][1].size == form.named("mask")[0].size == (96, 64)
    assert form.pictures[1][1].size == (50, 40)
    after = shown(made)
    change = after.astype(int) - cv2.GaussianBlur(loaded.image, (0, 0), 0.5)
    inner = cv2.erode(loaded.mask.astype(np.uint8), np.ones((5, 5))) > 0
    outer = cv2.dilate(loaded.mask.astype(np.uint8), np.ones((5, 5))) == 0
    assert after.shape == loaded.image.shape
    assert np.median(change[inner]) > 40
    assert abs(np.median(change[outer])) < 3
    assert "secret-key" not in asked.digest + "".join(p.read_text("latin1") for p in tmp_path.rglob("*") if p.is_file())


def test_an_image_is_paid_for_once(loaded: LoadedInput, tmp_path: Path) -> None:
    other = replace(loaded, image=loaded.image[:, ::-1].copy())
    with serve_images(brighter) as server:
        first, again = (method(server.base_url, tmp_path, usd_per_image=0.04) for _ in range(2))
        made = first.run([loaded, other])
        assert [shown(a).tolist() for a in again.run([loaded, other])] == [shown(m).tolist() for m in made]
    assert len(server.forms) == 2
    assert (first.spent.images, first.spent.cached, first.spent.usd) == (2, 0, pytest.approx(0.08))
    assert (again.spent.images, again.spent.cached, again.spent.usd) == (0, 2, None)
    assert first.digest == again.digest != method(server.base_url, tmp_path, mask=False).digest


def test_a_busy_endpoint_is_waited_for_and_one_that_stays_down_stops_the_job(
    loaded: LoadedInput, tmp_path: Path
) -> None:
    with serve_images(lambda form, number: (429, b"") if number < 2 else brighter(form, number)) as server:
        asked = method(server.base_url, tmp_path)
        shown(asked.run([loaded])[0])
        assert (asked.spent.images, asked.spent.retries) == (1, 2)
    for status in (503, 401):
        with (
            serve_images(lambda form, number, status=status: (status, b"no")) as server,
            pytest.raises(EndpointDown, match=f"HTTP {status}"),
        ):
            method(server.base_url, tmp_path, requests=2).run([loaded])


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, b"we do not edit this", "endpoint.refused"),
        (200, b"<html>", "endpoint.unreadable"),
        (200, b'{"data": []}', "endpoint.unreadable"),
        (200, b'{"data": [{"url": "http://127.0.0.1:9/picture.png"}]}', "endpoint.unreadable"),
        (200, b'{"data": [{"b64_json": "###"}]}', "endpoint.unreadable"),
        (200, answered(np.zeros((64, 64, 3), np.uint8))[1], "endpoint.size"),
    ],
    ids=["refused", "no JSON", "nothing", "a link", "no base64", "another size"],
)
def test_an_input_that_fails_costs_itself_alone(
    loaded: LoadedInput, tmp_path: Path, status: int, body: bytes, reason: str
) -> None:
    other = replace(loaded, image=loaded.image[:, ::-1].copy())
    with serve_images(lambda form, number: (status, body) if number == 0 else brighter(form, number)) as server:
        failed, made = method(server.base_url, tmp_path).run([loaded, other])
    assert isinstance(failed, ItemError)
    assert failed.reason == reason
    shown(made)


def test_an_endpoint_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("REFINE_IMAGES_BASE_URL", "REFINE_IMAGES_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(JobError, match="REFINE_IMAGES_BASE_URL"):
        EditEndpoint(EndpointMethod(name="closed"), ImageLimits())
