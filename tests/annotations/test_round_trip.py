"""A manifest that is exported and imported again is the same; what it makes is refined."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from refine_ops.annotations.exports import export_annotations
from refine_ops.errors import JobError
from refine_ops.image.region import tight_box
from refine_ops.job.planning.manifest import read_items
from tests.support.annotated import imported, marked, photo
from tests.support.typed import typed

SIZE = (80, 64)
REGIONS = [
    {"region_id": "logo", "box": [3, 4, 30, 21], "prompt": "Refine the logo", "seed": 7, "paste": "box"},
    {"region_id": "wire", "scribble": {"strokes": [[[5, 40], [60, 50.5]]], "width": 4}, "prompt": "Mend: the wire"},
    {"region_id": "face", "mask": "masks/face.png", "prompt": "Refine the face", "reference": "photos/ref.jpg"},
    {"region_id": "ring", "mask": "masks/ring.png", "prompt": "Refine the ring", "mask_class": 2},
    {"region_id": "a#1", "box": [1, 1, 9, 9], "prompt": "Refine the a"},
    {"region_id": "all", "box": [0, 0, 80, 64], "prompt": "Refine the all"},
]


@pytest.fixture
def manifest(tmp_path) -> str:
    photo(tmp_path / "photos" / "a.jpg", SIZE)
    photo(tmp_path / "photos" / "turned.jpg", (64, 80), 6)
    photo(tmp_path / "photos" / "ref.jpg")
    rng = np.random.default_rng(3)
    (tmp_path / "masks").mkdir()
    face = np.zeros((64, 80), np.uint8)
    face[10:50, 20:60] = rng.integers(0, 2, (40, 40)) * 255
    Image.fromarray(face).save(tmp_path / "masks" / "face.png")
    ring = np.zeros((64, 80), np.uint8)
    ring[5:60, 5:75], ring[20:40, 20:50] = 2, 1
    Image.fromarray(ring).save(tmp_path / "masks" / "ring.png")
    rows = [
        {"item_id": "sku-1", "image": "photos/a.jpg", "output": "x/1.jpg", "category": "shoes", "regions": REGIONS},
        {"item_id": "sku-2", "image": "photos/turned.jpg", "regions": REGIONS[:3]},
    ]
    path = tmp_path / "first.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize("form", ["coco", "label-studio"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_manifest_that_is_exported_and_imported_again_gives_the_same_regions(
    form: str, suffix: str, manifest: str, tmp_path
) -> None:
    out = tmp_path / "exported.json"
    exported = export_annotations(form, manifest, str(out), images=str(tmp_path / "photos"))
    assert (exported.images, exported.regions, exported.remarks) == (2, 9, [])
    read = imported(
        tmp_path,
        form,
        out,
        out=f"again.{suffix}",
        predictions=True,
        references=str(tmp_path),
        orientation="auto" if form == "label-studio" else "upright",
    )
    assert not read.found.remarks
    for before, after in zip(read_items(manifest), read.items, strict=True):
        assert (after.item_id, after.image, after.output) == (before.item_id, before.image, before.output)  # type: ignore[union-attr]
        size = SIZE if before.item_id == "sku-1" else (80, 64)
        for old, new in zip(before.regions, after.regions, strict=True):  # type: ignore[union-attr]
            assert (new.region_id, new.prompt, new.seed, new.paste) == (old.region_id, old.prompt, old.seed, old.paste)
            assert (new.box, new.all_references) == (old.box, old.all_references)
            assert new.scribble is None
            np.testing.assert_array_equal(marked(new, size), marked(old, size))


def test_what_is_exported_to_coco_is_what_its_own_tool_reads(manifest: str, tmp_path) -> None:
    out = tmp_path / "exported.json"
    export_annotations("coco", manifest, str(out), images=str(tmp_path / "photos"))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(out))
    (before, _) = read_items(manifest)
    for region, annotation in zip(before.regions, data.loadAnns(data.getAnnIds(imgIds=[1])), strict=True):  # type: ignore[union-attr]
        mask = marked(region, SIZE)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == tight_box(mask)
        assert annotation["area"] == mask.sum()
        if annotation["segmentation"]:
            np.testing.assert_array_equal(data.annToMask(annotation), mask)


def test_labels_and_scores_of_what_was_detected(tmp_path) -> None:
    photo(tmp_path / "photos" / "a.jpg", SIZE)
    boxes = {"text-1": [1, 2, 9, 9], "text-2": [4, 5, 20, 21], "0": [6, 7, 30, 31], "1": [8, 8, 9, 9]}
    prompts = ["Refine the text 'A'.", "Refine it", "Refine the dial", "Sharpen"]
    regions = [
        {"region_id": name, "box": box, "prompt": prompt}
        for (name, box), prompt in zip(boxes.items(), prompts, strict=True)
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"item_id": "a", "image": "photos/a.jpg", "regions": regions}))
    rows = [
        {"item_id": "a", "region_id": region_id, "class": "print", "score": score, "detector": "text"}
        for region_id, score in (("text-2", 0.25), ("text-2", 0.75), (None, 0.9), ("text-1", 0.5))
    ]
    pq.write_table(pa.Table.from_pylist(rows[:3]), tmp_path / "detections.parquet")
    out = tmp_path / "out.json"
    export_annotations("coco", str(manifest), str(out), detections=str(tmp_path / "detections.parquet"))
    data = json.loads(out.read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    found = [(names[a["category_id"]], a.get("score")) for a in data["annotations"]]
    assert found == [("text", None), ("print", 0.75), ("dial", None), ("region", None)]
    with pytest.raises(JobError, match=r"expected the detections\.parquet"):
        export_annotations("coco", str(manifest), str(out), detections=str(manifest))


def test_the_commands_type_and_say_what_they_did(manifest: str, tmp_path) -> None:
    photos, out = str(tmp_path / "photos"), str(tmp_path / "tasks.json")
    done = typed("annotations", "export", "label-studio", manifest, "--out", out, "--images", photos)
    assert (done.returncode, done.stdout) == (0, "")
    assert "9 regions of 2 images" in done.stderr
    config = (tmp_path / "tasks.config.xml").read_text()
    assert "#" not in str([r["id"] for t in json.loads(Path(out).read_text()) for r in t["predictions"][0]["result"]])
    assert '<Label value="logo"/>' in config
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=a.jpg"
    tasks[1]["predictions"][0]["result"][0]["value"]["x"] = None
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    again = str(tmp_path / "again.parquet")
    done = typed("annotations", "import", "label-studio", out, "--images", photos, "--out", again, "--predictions")
    assert done.returncode == 1
    (listed,) = done.stdout.splitlines()
    assert listed.split("\t")[:2] == [f"{out}: [1].predictions[0].result[0]", "number.invalid"]
    assert "8 regions of 2 images" in done.stderr
    assert "--references says whence" in done.stderr
    assert typed("annotations", "import", "nonsense", out, "--images", photos, "--out", again).returncode == 2


def test_what_a_person_corrected_keeps_what_the_tool_has_no_word_for(manifest: str, tmp_path) -> None:
    """As Label Studio exports it once somebody moved a box, wrote another prompt, deleted a mask and drew a new box."""
    out = tmp_path / "tasks.json"
    export_annotations("label-studio", manifest, str(out), images=str(tmp_path / "photos"))
    (task, _) = json.loads(out.read_text())
    drawn = [r for r in task["predictions"][0]["result"] if r["id"] in ("logo", "wire")]
    drawn[0]["value"]["x"] += 10 / 0.8
    drawn[3]["value"]["text"] = ["Mend it all"]
    new = {**drawn[0], "id": "Xy_12-a", "value": {**drawn[0]["value"], "x": 0, "rectanglelabels": ["dial"]}}
    task["annotations"] = [{"id": 3, "completed_by": 2, "result": [*drawn, new]}]
    read = imported(tmp_path, "label-studio", [task], references=str(tmp_path))
    logo, wire, dial = read.item.regions
    assert (logo.box, logo.seed, logo.paste, logo.prompt) == ((13, 4, 40, 21), 7, "box", "Refine the logo")
    assert (wire.region_id, wire.prompt) == ("wire", "Mend it all")
    assert (dial.region_id, dial.box, dial.prompt, dial.seed) == ("Xy_12-a", (0, 4, 27, 21), "Refine the dial", None)
    assert (read.item.item_id, read.item.output, read.item.category) == ("sku-1", "x/1.jpg", "shoes")
