"""Whole builds: sound samples, pure splits, the same bytes on any number of workers and after any kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from refine_ops.data.building.build import build
from refine_ops.data.building.dataset_folder import open_folder, parts_of
from refine_ops.data.config import (
    BuildDatasetConfig,
    InstructSettings,
    ManifestSource,
    SyntheticSource,
)
from refine_ops.detect.config import SamSegmentation
from refine_ops.errors import JobError
from refine_ops.identity import digest
from tests.support.photos import (
    ANNOTATIONS,
    PHOTOS,
    assert_pure_splits,
    assert_sound,
    content,
    photo_config,
    read_png,
    rows_of,
    write_manifest,
)


def run(config: BuildDatasetConfig) -> Path:
    for _ in build(config, open_folder(config).todo):
        pass
    return Path(config.out)


def drawn(out: Path, count: int = 60, **changes: object) -> BuildDatasetConfig:
    source = SyntheticSource(count=count, size_px=96)
    return BuildDatasetConfig(**({"out": str(out), "source": source, "samples_per_part": 8} | changes))


@pytest.mark.long
def test_the_synthetic_source_gives_a_sound_set(tmp_path: Path) -> None:
    out = run(drawn(tmp_path / "set", count=160))
    samples, rejects = rows_of(out), rows_of(out, "rejects")
    assert len(samples) + len(rejects) == 160
    assert len(samples) > 140
    for row in samples:
        assert_sound(out, row)
    assert_pure_splits(samples)
    share = sum(r["setting"] == "reference" for r in samples) / len(samples)
    assert abs(share - 2 / 3) < 0.12
    assert {r["split"] for r in samples} == {"train", "validation"}


@pytest.mark.long
def test_photos_with_boxes_grabcut_and_model_free_damage_give_a_sound_set(tmp_path: Path) -> None:
    config = photo_config(tmp_path)
    out = run(config)
    samples, rejects = rows_of(out), rows_of(out, "rejects")
    assert len(samples) + len(rejects) == 15
    assert len(samples) >= 9, [(r["sample_id"], r["message"]) for r in rejects]
    for row in samples:
        assert_sound(out, row)
        assert row["setting"] == "free"
        assert row["licences"] == ["public domain"]
        assert row["description"] in row["prompt"]
    assert_pure_splits(samples)
    assert {r["split"] for r in samples} == {"train", "validation"}
    assert len({r["target"] for r in samples}) <= 4, "samples of one photo share its file"
    assert all(r["stage"] and r["reason"] and r["message"] for r in rejects)


@pytest.mark.processes
@pytest.mark.parametrize("source", ["synthetic", "photos"])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, source: str) -> None:
    def config(name: str, workers: int, part: int) -> BuildDatasetConfig:
        one = drawn(tmp_path / name, 40) if source == "synthetic" else photo_config(tmp_path, name, samples_per_row=2)
        return one.model_copy(update={"workers": workers, "samples_per_part": part})

    alone, many, coarse = (run(config(*c)) for c in (("alone", 1, 4), ("many", 3, 4), ("coarse", 2, 16)))
    assert content(alone) == content(many)
    assert rows_of(alone) == rows_of(coarse)


def test_another_seed_is_another_set(tmp_path: Path) -> None:
    one, other = (run(drawn(tmp_path / str(s), 8, seed=s)) for s in (1, 2))
    assert not content(one).keys() & {k for k in content(other) if "target" in k}


KILLED = """
import sys
from refine_ops.data.building.build import build
from refine_ops.data.config import BuildDatasetConfig
from refine_ops.data.building.dataset_folder import open_folder
if __name__ == "__main__":
    config = BuildDatasetConfig.model_validate_json(sys.argv[1])
    for i, report in enumerate(build(config, open_folder(config).todo)):
        print(report.part, flush=True)
        if i == 2:
            sys.stdin.read()  # never answered: at most these 3 and the 4 handed out to workers are done in one session
"""


@pytest.mark.processes
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_and_resumed_gives_the_same_set(tmp_path: Path, workers: int) -> None:
    parts = 24
    quiet = run(drawn(tmp_path / "quiet", 4 * parts, samples_per_part=4))
    config = drawn(tmp_path / "killed", 4 * parts, samples_per_part=4, workers=workers)
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    rng, sessions = random.Random(workers), []
    for _ in range(3):
        command = [sys.executable, str(script), config.model_dump_json()]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            time.sleep(rng.uniform(0, 0.25))
            sessions.append(process.pid)
            assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
    done = {p.name for p in (Path(config.out) / "samples").glob("*.parquet")}
    stamps = {p: (Path(config.out) / "samples" / p).stat().st_mtime_ns for p in done}
    assert 3 <= len(done) < parts
    run(config)
    assert content(Path(config.out)) == content(quiet)
    assert all((Path(config.out) / "samples" / p).stat().st_mtime_ns == t for p, t in stamps.items()), "redone"
    for session in sessions:
        assert not _alive(session), "a worker outlived its parent"


@pytest.mark.processes
def test_a_sample_that_kills_its_workers_is_rejected_and_the_rest_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo whose decoding kills the process, as a bug in a C library would: planted in the workers only."""
    rows = tuple({**ANNOTATIONS[4], "source_id": f"rocket-{i}"} for i in range(6))
    write_manifest(tmp_path / "manifest.jsonl", rows)
    poisonous = "rocket-3-000"
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "import refine_ops.data.stages.photo as photo\n"
        "read = photo.read_pair\n"
        "def deadly(planned, *rest):\n"
        f"    if planned.sample_id == {poisonous!r}:\n"
        "        os.kill(os.getpid(), 11)\n"
        "    return read(planned, *rest)\n"
        "photo.read_pair = deadly\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    config = photo_config(tmp_path, samples_per_row=1).model_copy(update={"workers": 2, "samples_per_part": 2})
    out = run(config)
    samples, rejects = rows_of(out), rows_of(out, "rejects")
    assert len(samples) + len(rejects) == 6
    assert [(r["sample_id"], r["reason"]) for r in rejects if r["reason"] == "worker.killed"] == [
        (poisonous, "worker.killed")
    ]
    assert open_folder(config).todo == {}


def _alive(session: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def test_a_finished_set_has_nothing_to_do_and_another_configuration_is_refused(tmp_path: Path) -> None:
    config = drawn(tmp_path / "set", 10)
    run(config)
    assert open_folder(config.model_copy(update={"workers": 4})).todo == {}
    with pytest.raises(JobError, match=r"another set: config\.seed: 0 there, 9 now\. Use"):
        open_folder(config.model_copy(update={"seed": 9}))


def test_a_set_of_an_earlier_release_opens_and_is_refused_by_name(tmp_path: Path) -> None:
    config = drawn(tmp_path / "set", 10)
    open_folder(config)
    record = json.loads((tmp_path / "set" / "build.json").read_text())
    del record["parts"]
    (tmp_path / "set" / "build.json").write_text(json.dumps(record))
    open_folder(config)
    with pytest.raises(JobError, match=r"config\.seed: 0 there, 9 now\. Use"):
        open_folder(config.model_copy(update={"seed": 9}))


def test_a_checkpoint_counts_by_its_files_wherever_it_lies(tmp_path: Path) -> None:
    def identity(folder: Path, weights: bytes) -> str:
        (folder / "unet").mkdir(parents=True)
        (folder / "unet" / "model.safetensors").write_bytes(weights)
        source = ManifestSource(manifest="m.jsonl", segment=SamSegmentation(model=str(folder)))
        return digest(parts_of(BuildDatasetConfig(out="set", source=source), b""))

    first = identity(tmp_path / "a", b"1")
    assert first == identity(tmp_path / "copy", b"1")
    assert first != identity(tmp_path / "b", b"2")


@pytest.mark.long
def test_excluded_families_are_nowhere_and_unknown_names_are_refused(tmp_path: Path) -> None:
    held_out = ("text", "barcode", "photo", "local_warp", "inpainting")
    out = run(drawn(tmp_path / "set", 60, exclude=held_out))
    assert not {f for row in rows_of(out) for f in row["families"]} & set(held_out)
    with pytest.raises(JobError, match="no family is called txet"):
        open_folder(drawn(tmp_path / "other", 10, exclude=("txet",)))
    rows = tuple({**r, "families": r["image"].split(".")[0]} for r in ANNOTATIONS)
    write_manifest(tmp_path / "manifest.jsonl", rows)
    config = photo_config(tmp_path, "photos", samples_per_row=2)
    config = config.model_copy(update={"exclude": ("coffee", "astronaut", "noise", "ghosting")})
    families = {f for row in rows_of(run(config)) for f in row["families"]}
    assert {"chelsea", "rocket"} <= families
    assert not families & {"coffee", "astronaut", "noise", "ghosting"}


def test_bad_rows_are_rejected_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    rows = (
        {"image": "rocket.jpg", "box": [300, 115, 345, 420], "description": "the rocket"},
        {"image": "missing.jpg", "box": [1, 1, 50, 50], "description": "nothing"},
        {"image": str(tmp_path / "broken.jpg"), "box": [1, 1, 50, 50], "description": "nothing"},
        {"image": "rocket.jpg", "box": [600, 100, 700, 200], "description": "outside"},
        {"image": "rocket.jpg", "description": "no box"},
        {"image": "rocket.jpg", "box": [300, 115, 345, 420]},
        {"image": "rocket.jpg", "box": [300, 115, 305, 120], "description": "a speck"},
    )
    write_manifest(tmp_path / "manifest.jsonl", rows)
    out = run(photo_config(tmp_path, samples_per_row=1))
    rejected = {r["source_id"]: (r["stage"], r["reason"]) for r in rows_of(out, "rejects")}
    assert {r["source_id"] for r in rows_of(out)} == {"row-000000"}
    assert rejected["row-000001"] == ("read", "file.missing")
    assert rejected["row-000002"][1].startswith("image.")
    assert [rejected[f"row-00000{i}"][1] for i in (3, 4, 5, 6)] == [
        "ground.invalid_box", "ground.no_box", "ground.no_description", "ground.no_usable_box",
    ]  # fmt: skip


def test_a_source_that_changes_after_planning_is_noticed(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    rows = ({**ANNOTATIONS[4], "image": str(photo)},)
    write_manifest(tmp_path / "manifest.jsonl", rows)
    photo.write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    config = photo_config(tmp_path, samples_per_row=1)
    found = open_folder(config)
    photo.write_bytes((PHOTOS / "coffee.jpg").read_bytes())
    for _ in build(config, found.todo):
        pass
    assert [r["reason"] for r in rows_of(Path(config.out), "rejects")] == ["source.changed"]


def test_pairs_keep_their_reference_whole_or_cropped(tmp_path: Path) -> None:
    reference = {"reference": str(PHOTOS / "rocket.jpg"), "reference_box": [300, 115, 345, 420]}
    rows = ({**ANNOTATIONS[4], **reference},)
    write_manifest(tmp_path / "manifest.jsonl", rows)
    for share, shape in ((0.0, (427, 640)), (1.0, (427 - 85, 45 + 2 * 4))):
        config = photo_config(tmp_path, f"set{share}", instruct=InstructSettings(reference_crop=share))
        out = run(config)
        samples = rows_of(out)
        assert samples
        for row in samples:
            assert row["setting"] == "reference"
            assert read_png(out, row["reference"]).shape[:2] == shape


@pytest.mark.long
def test_large_photos_shrink_only_when_asked(tmp_path: Path) -> None:
    config = photo_config(tmp_path, samples_per_row=1, max_side_px=300)
    assert isinstance(config.source, ManifestSource)
    out = run(config)
    samples = rows_of(out)
    assert len(samples) >= 2
    for row in samples:
        assert max(row["width"], row["height"]) == 300
        assert_sound(out, row)


def test_a_damaged_image_on_disk_would_be_caught(tmp_path: Path) -> None:
    """The checker of these tests is itself checked: it must see one changed background pixel."""
    out = run(drawn(tmp_path / "set", 4))
    row = rows_of(out)[0]
    image = cv2.imread(str(out / row["input"]))
    assert image is not None
    mask = cv2.imread(str(out / row["mask"]), cv2.IMREAD_GRAYSCALE)
    assert mask is not None
    y, x = np.unravel_index(int(np.argmin(cv2.dilate(mask, np.ones((31, 31), np.uint8)))), mask.shape)
    image[y, x, 0] ^= 1
    cv2.imwrite(str(out / row["input"]), image)
    with pytest.raises(AssertionError, match="background"):
        assert_sound(out, row)
