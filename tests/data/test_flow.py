"""The flow as a user runs it: a real Prefect run, a VLM endpoint, S3, the card and its figures."""

import json
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import cv2
import pytest
from moto.server import ThreadedMotoServer

from flows.build_dataset import build_dataset
from refine_ops import storage
from refine_ops.data.building.build import build
from refine_ops.data.building.dataset_folder import open_folder
from refine_ops.data.card.card import write_card
from refine_ops.data.config import (
    BuildDatasetConfig,
    SyntheticSource,
    ValidateSettings,
)
from refine_ops.detect.config import VlmGrounding
from refine_ops.vlm.config import OpenAiVlm
from refine_ops.vlm.openai import EndpointDown
from tests.support.photos import ANNOTATIONS, PHOTOS, assert_sound, content, photo_config, rows_of, write_manifest
from tests.support.servers.openai_server import Answer, decode_data_url, says, serve

pytestmark = pytest.mark.processes


def test_the_flow_builds_resumes_and_states_its_throughput(tmp_path: Path) -> None:
    config = BuildDatasetConfig(
        out=str(tmp_path / "set"), source=SyntheticSource(count=40, size_px=96), samples_per_part=16
    )
    first = build_dataset(config)
    again = build_dataset(config)
    assert first == again
    assert first["samples"] + first["rejects"] == 40  # type: ignore[operator]
    statistics = json.loads((tmp_path / "set" / "statistics.json").read_bytes())
    assert statistics["throughput"]["render"]["calls"] == 40
    assert all(stage["per_s"] > 0 for stage in statistics["throughput"].values())
    card = (tmp_path / "set" / "README.md").read_text()
    assert f"{first['samples']} samples" in card
    assert "not measured" in card, "no control was shown, so there is no false-positive rate"
    assert (tmp_path / "set" / "contact_sheet.png").stat().st_size > 10_000


def vlm_config(tmp_path: Path, base_url: str, **vlm: Any) -> BuildDatasetConfig:
    chat = OpenAiVlm(base_url=base_url, model="m", cache=str(tmp_path / "cache"), backoff_s=0.01, **vlm)
    return photo_config(
        tmp_path,
        samples_per_row=2,
        ground=VlmGrounding(vlm=chat),
        validation=ValidateSettings(vlm=chat, control_share=0.5),
    )


def vlm(body: dict[str, Any], _: int) -> Answer:
    """Finds the rocket wherever it is asked; sees no defect in one question of three, garbles one of five."""
    name = body["response_format"]["json_schema"]["name"]
    if name == "_ObjectsReply":
        box = {"x0": 469, "y0": 270, "x1": 539, "y1": 983}
        return says(objects=[{"description": "the <b>rocket</b> | `x`", "box": box}])
    dice = zlib.crc32(body["messages"][1]["content"][1]["image_url"]["url"].encode())
    if name == "_DefectReply":
        return says(defect=dice % 3 > 0, evidence="smeared") if dice % 5 else Answer("I think it is fine.")
    return says(plausible=True, evidence="clear")


def test_a_build_with_a_vlm_keeps_rejects_raw_answers_tokens_and_the_false_positive_rate(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.jsonl", tuple({"image": "rocket.jpg", "source_id": f"r{i}"} for i in range(8)))
    with serve(vlm) as server:
        config = vlm_config(tmp_path, server.base_url, usd_per_million_input_tokens=1, usd_per_million_output_tokens=4)
        for _ in build(config, open_folder(config).todo):
            pass
        asked = len(server.requests)
    out = Path(config.out)
    statistics = write_card(str(out))
    samples, rejects = rows_of(out), rows_of(out, "rejects")
    assert len(samples) + len(rejects) == 16
    assert statistics["vlm"]["calls"] == asked
    assert statistics["vlm"]["cost_usd"] == pytest.approx(asked * (1000 + 4 * 50) / 1e6)
    shown = [json.loads(r["scores"]) for r in samples + rejects]
    controls = [s["control_defect"] for s in shown if "control_defect" in s]
    assert statistics["controls"]["shown"] == len(controls) > 0
    assert statistics["controls"]["false_positive_rate"] == sum(controls) / len(controls)
    unread = [r for r in rejects if r["reason"] == "vlm.unparsable"]
    assert all(r["raw_answer"] == "I think it is fine." for r in unread)
    assert all(r["input"] and (out / r["input"]).exists() for r in rejects if r["stage"] == "validate")
    card = (out / "README.md").read_text()
    assert "<b>" not in card
    assert "| `x`" not in card


def test_pairs_grounded_by_a_vlm_become_reference_samples_and_mismatches_are_rejected(tmp_path: Path) -> None:
    mirrored = cv2.flip(cv2.imread(str(PHOTOS / "rocket.jpg")), 1)
    cv2.imwrite(str(tmp_path / "mirrored.png"), mirrored)
    pairs = ({"image": "rocket.jpg", "reference": str(tmp_path / "mirrored.png"), "source_id": "same"},
             {"image": "rocket.jpg", "reference": str(PHOTOS / "coffee.jpg"), "source_id": "other"})  # fmt: skip
    write_manifest(tmp_path / "manifest.jsonl", pairs)

    def looks(body: dict[str, Any], _: int) -> Answer:
        name, shown = body["response_format"]["json_schema"]["name"], body["messages"][1]["content"]
        if name == "_SameReply":
            return says(same=True, evidence="one livery")
        reference = decode_data_url(shown[1]["image_url"]["url"])
        same = reference.shape == mirrored.shape
        box, mirror = ({"x0": x0, "y0": 270, "x1": x1, "y1": 983} for x0, x1 in ((469, 539), (461, 531)))
        answer = {"description": "the rocket", "same_subject_in_target": same, "confidence": 0.9, "evidence": "e"}
        return says(**answer, reference_box=mirror, target_box=box)

    with serve(looks) as server:
        chat = OpenAiVlm(base_url=server.base_url, model="m", cache=str(tmp_path / "cache"))
        config = photo_config(tmp_path, ground=VlmGrounding(vlm=chat))
        list(build(config, open_folder(config).todo))
    out = Path(config.out)
    samples, rejects = rows_of(out), rows_of(out, "rejects")
    assert samples
    for row in samples:
        assert_sound(out, row)
        assert (row["source_id"], row["setting"]) == ("same", "reference")
        assert json.loads(row["models"])["ground"] == "m@127.0.0.1"
        assert len(row["source_sha256"]) == 2
    assert {r["reason"] for r in rejects if r["source_id"] == "other"} == {"ground.no_match"}
    assert len({r["split"] for r in samples + rejects}) == 1, "both pairs share a photo, so they share a split"


def test_an_endpoint_that_goes_down_stops_the_build_and_a_resume_finishes_it(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.jsonl", ANNOTATIONS[2:])
    good = {"_DefectReply": {"defect": True}, "_PlausibleReply": {"plausible": True}}

    def goes_down(body: dict[str, Any], number: int) -> Answer:
        name = body["response_format"]["json_schema"]["name"]
        return says(**good[name], evidence="e") if number < 5 else Answer(status=503, raw=b"")

    def config(base_url: str) -> BuildDatasetConfig:
        chat = OpenAiVlm(base_url=base_url, model="m", cache=str(tmp_path / "cache"), backoff_s=0.01, requests=2)
        return photo_config(tmp_path, samples_per_row=2, validation=ValidateSettings(vlm=chat, control_share=0))

    with serve(goes_down) as server, pytest.raises(EndpointDown, match="run the same command again"):
        list(build(config(server.base_url), open_folder(config(server.base_url)).todo))
    with serve(lambda body, _: says(**good[body["response_format"]["json_schema"]["name"]], evidence="e")) as server:
        list(build(config(server.base_url), open_folder(config(server.base_url)).todo))
        out = Path(config(server.base_url).out)
    samples, rejects = rows_of(out), rows_of(out, "rejects")
    assert len(samples) + len(rejects) == 6
    assert not [r for r in rejects if r["reason"].startswith("vlm.")], "an outage decides nothing"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    boto3.client("s3").create_bucket(Bucket="sets")
    yield "s3://sets/one"
    server.stop()


def test_a_set_on_s3_holds_the_bytes_of_a_local_one(tmp_path: Path, bucket: str) -> None:
    local = BuildDatasetConfig(
        out=str(tmp_path / "set"), source=SyntheticSource(count=12, size_px=64), samples_per_part=4
    )
    remote = local.model_copy(update={"out": bucket})
    for config in (local, remote):
        list(build(config, open_folder(config).todo))
        write_card(config.out)
    assert open_folder(remote).todo == {}
    stored = {u.removeprefix(bucket + "/"): storage.read(u) for u in storage.list_files(bucket)}
    assert {k: v for k, v in stored.items() if k.split("/")[0] in ("samples", "rejects", "images")} == content(
        tmp_path / "set"
    )
    assert {"README.md", "statistics.json", "contact_sheet.png", "plan.parquet", "build.json"} <= set(stored)
