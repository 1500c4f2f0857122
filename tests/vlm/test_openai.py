"""The OpenAI-protocol client against a real HTTP server: good, malformed, slow, 429 and 500 answers."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from refine_ops.errors import ItemError, JobError
from refine_ops.vlm.config import OpenAiVlm
from refine_ops.vlm.openai import EndpointDown, OpenAiChat
from refine_ops.vlm.questions import AnswerError, Question, Reply, parse
from tests.support.servers.openai_server import Answer, says, serve

pytestmark = pytest.mark.processes


class Colour(Reply):
    colour: str
    sure: bool


RED = np.full((40, 60, 3), (255, 0, 0), np.uint8)
QUESTION = Question("Answer in JSON.", "Which colour?", (RED,))
GOOD = says(colour="red", sure=True)


def chat(base_url: str, cache: Path, **settings: object) -> OpenAiChat:
    options = {"model": "looker-1", "backoff_s": 0.01, "timeout_s": 5.0, **settings}
    return OpenAiChat(OpenAiVlm(base_url=base_url, cache=str(cache), **options))


def test_asks_with_pictures_and_schema_and_reads_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_VLM_API_KEY", "sk-secret-123")
    with serve(lambda *_: GOOD) as server, chat(server.base_url, tmp_path) as client:
        assert client.ask(QUESTION, Colour) == Colour(colour="red", sure=True)
        assert "sk-secret-123" not in client.name
    request = server.requests[0]
    np.testing.assert_array_equal(server.images(0)[0], RED)
    schema = request["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["colour", "sure"]
    assert schema["schema"]["additionalProperties"] is False
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-123"
    assert not any(b"sk-secret-123" in f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())


def test_endpoint_and_model_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda *_: GOOD) as server:
        monkeypatch.setenv("REFINE_VLM_BASE_URL", server.base_url)
        monkeypatch.setenv("REFINE_VLM_MODEL", "from-env")
        with OpenAiChat(OpenAiVlm(cache=str(tmp_path))) as client:
            client.ask(QUESTION, Colour)
    assert server.requests[0]["model"] == "from-env"
    monkeypatch.delenv("REFINE_VLM_BASE_URL")
    with pytest.raises(JobError, match="REFINE_VLM_BASE_URL"):
        OpenAiChat(OpenAiVlm())


def test_an_answer_is_paid_for_once(tmp_path: Path) -> None:
    prices = {"usd_per_million_input_tokens": 2.0, "usd_per_million_output_tokens": 10.0}
    with serve(lambda *_: GOOD) as server:
        for _ in range(2):
            with chat(server.base_url, tmp_path, **prices) as client:
                client.ask(QUESTION, Colour)
                client.ask(QUESTION, Colour)
        usage = client.usage
        assert (usage.calls, usage.cached, usage.cost_usd) == (0, 2, None)
        with chat(server.base_url, tmp_path, **prices) as client:
            client.ask(Question("Answer in JSON.", "Which colour?", (RED,), repeat=1), Colour)
            client.ask(Question("Answer in JSON.", "Which colour?", (RED // 2,)), Colour)
        assert len(server.requests) == 3
        assert client.usage.cost_usd == pytest.approx(2 * (1000 * 2.0 + 50 * 10.0) / 1e6)
        assert (client.usage.input_tokens, client.usage.output_tokens) == (2000, 100)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again(tmp_path: Path, status: int) -> None:
    def busy_twice(_: object, number: int) -> Answer:
        return Answer(status=status, raw=b"busy") if number < 2 else GOOD

    with serve(busy_twice) as server, chat(server.base_url, tmp_path) as client:
        assert client.ask(QUESTION, Colour).colour == "red"
        assert client.usage.retries == 2
    assert len(server.requests) == 3


def test_retry_after_is_honoured(tmp_path: Path) -> None:
    def once(_: object, number: int) -> Answer:
        return GOOD if number else Answer(status=429, raw=b"", headers={"Retry-After": "0.6"})

    with serve(once) as server, chat(server.base_url, tmp_path) as client:
        started = time.perf_counter()
        client.ask(QUESTION, Colour)
        assert time.perf_counter() - started >= 0.6


def test_an_endpoint_that_stays_down_stops_the_job_and_decides_nothing(tmp_path: Path) -> None:
    with (
        serve(lambda *_: Answer(status=500, raw=b"oops")) as server,
        chat(server.base_url, tmp_path, requests=3) as client,
    ):
        with pytest.raises(EndpointDown, match=r"3 attempts.*HTTP 500"):
            client.ask(QUESTION, Colour)
        assert len(server.requests) == 3
    assert issubclass(EndpointDown, JobError)
    assert not issubclass(EndpointDown, ItemError)


def test_a_slow_answer_times_out_and_is_asked_for_again(tmp_path: Path) -> None:
    def slow_once(_: object, number: int) -> Answer:
        return GOOD if number else Answer(GOOD.content, delay_s=1.5)

    with serve(slow_once) as server, chat(server.base_url, tmp_path, timeout_s=0.4) as client:
        assert client.ask(QUESTION, Colour).colour == "red"
        assert client.usage.retries == 1


def test_wrong_credentials_stop_at_once(tmp_path: Path) -> None:
    with serve(lambda *_: Answer(status=401, raw=b"bad key")) as server, chat(server.base_url, tmp_path) as client:
        with pytest.raises(EndpointDown, match="401"):
            client.ask(QUESTION, Colour)
        assert len(server.requests) == 1


BAD_ANSWERS = {
    "prose": (Answer("The colour is red, I am sure."), "vlm.unparsable"),
    "prose around": (Answer('Sure! {"colour": "red", "sure": true}'), "vlm.unparsable"),
    "missing key": (says(colour="red"), "vlm.unparsable"),
    "unknown key": (says(colour="red", sure=True, score=5), "vlm.unparsable"),
    "wrong type": (says(colour="red", sure="very"), "vlm.unparsable"),
    "empty": (Answer(""), "vlm.unparsable"),
    "no text": (Answer(None), "vlm.unparsable"),
    "cut off": (Answer('{"colour": "re', finish_reason="length"), "vlm.truncated"),
    "refusal": (Answer(None, refusal="I cannot look at this"), "vlm.refused"),
    "not a completion": (Answer(raw=b"<html>gateway</html>"), "vlm.unparsable"),
    "a list": (Answer(raw=b"[1, 2]"), "vlm.unparsable"),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_what_cannot_be_read_is_an_error_with_the_raw_answer_and_is_not_cached(tmp_path: Path, kind: str) -> None:
    answer, reason = BAD_ANSWERS[kind]
    with serve(lambda _, number: GOOD if number else answer) as server, chat(server.base_url, tmp_path) as client:
        with pytest.raises(AnswerError) as caught:
            client.ask(QUESTION, Colour)
        assert caught.value.reason == reason
        if answer.content is not None:
            assert caught.value.raw == answer.content
        else:
            assert (answer.raw or (answer.refusal or '"content": null').encode()).decode() in caught.value.raw
        assert client.ask(QUESTION, Colour).colour == "red"


def test_a_fence_around_the_whole_answer_is_read() -> None:
    assert parse('```json\n{"colour": "red", "sure": false}\n```', Colour) == Colour(colour="red", sure=False)
    with pytest.raises(AnswerError):
        parse('```json\n{"colour": "red", "sure": false}\n``` I hope this helps', Colour)


def test_large_images_are_shrunk_before_they_are_sent(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (600, 1200, 3), np.uint8)
    with serve(lambda *_: GOOD) as server, chat(server.base_url, tmp_path, max_side_px=300) as client:
        client.ask(Question("", "", (large,)), Colour)
    assert server.images(0)[0].shape == (150, 300, 3)


def test_a_damaged_cache_entry_is_asked_for_again(tmp_path: Path) -> None:
    with serve(lambda *_: GOOD) as server, chat(server.base_url, tmp_path) as client:
        client.ask(QUESTION, Colour)
        entry = next(tmp_path.rglob("*.json"))
        assert json.loads(entry.read_bytes())["answer"] == GOOD.content
        entry.write_bytes(b"{")
        assert client.ask(QUESTION, Colour).colour == "red"
        assert len(server.requests) == 2
