"""What the first screen says and shows: what became of the run, what changed inside, and the pictures of it."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from refine_ops.image.focus import crop_of
from refine_ops.image.registration.frames import shift
from refine_ops.image.registration.register import register
from refine_ops.report.build import Built, build_report
from refine_ops.report.chosen import MOST, choose
from refine_ops.report.config import DriftReportConfig, MeasureSettings, Thresholds
from refine_ops.report.figures import ItemMeasure, RegionMeasure
from refine_ops.report.items import read_close_ups, read_items
from refine_ops.report.measure.item import compare
from refine_ops.report.run_items import open_run
from refine_ops.report.words import made_in_words, outcome_in_words, sharpness
from tests.support.made_runs import MadeEdit, MadeRun, photo_edit

ONE = MeasureSettings(processes=1)


def _report(run: MadeRun, out: Path) -> Built:
    return build_report(DriftReportConfig(runs=(run.write(),), out=str(out), measure=ONE))


def test_a_smeared_region_is_never_called_well(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.add("logo", photo_edit(40).smeared())
    built = _report(run, tmp_path / "report")
    assert built.summary["counts"] == {"effect.softer": 1}
    assert built.summary["verdict"]["state"] == "attention"
    assert "softer" in built.summary["verdict"]["sentence"]
    (card,) = built.summary["shown"]
    assert (card["group"], card["flags"]) == ("look", ["Softer than before: detail was lost"])
    assert card["said"][0] == "Softer than before."
    assert any(f"(limit {Thresholds().detail_lost:.0%})" in line for line in card["numbers"])


def test_a_restored_region_is_never_called_softer(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    for seed in range(12):
        run.add(f"i{seed}", photo_edit(seed))
    for item in open_run(run.write()).items():
        found = compare(item, ONE, False).measure
        assert found.findings == ()
        assert sharpness(found.regions[0], Thresholds()) in ("sharper", "about as sharp")


def test_held_items_come_first_with_their_picture_and_reason(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.add("seam", photo_edit(43).with_seam(16))
    run.add("fine", photo_edit(1))
    run.add_held("doubtful", photo_edit(2).smeared(), "judge.detail_lost", "r0: softer than before")
    built = _report(run, tmp_path / "report")
    assert [(c["group"], c["id"]) for c in built.summary["shown"]] == [
        ("held", "doubtful"),
        ("look", "seam"),
        ("typical", "fine"),
    ]
    assert built.summary["outcome"] == {"published": None, "done": 2, "held": 1, "dead": 0}
    assert built.summary["worst"][0]["id"] == "doubtful"
    assert built.summary["reasons"]["held"][0]["message"] == "r0: softer than before"
    assert built.summary["runs"][0]["held"] == 1
    seen = read_close_ups(built.folder)[(built.summary["runs"][0]["run"], "doubtful")]
    assert (seen.before[:4], seen.after[:4]) == (b"RIFF", b"RIFF")
    assert seen.after_said == "what came out, not published"
    text = Path(built.page).read_text()
    assert text.index("Held for you") < text.index("Look at these first") < text.index("What is typical")


def test_a_region_that_was_held_is_no_region_where_nothing_happened(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    run.add("a", photo_edit(2).untouched(), held="judge.text_worse")
    run.add("b", photo_edit(3))
    built = _report(run, tmp_path / "report")
    assert built.summary["counts"] == {"region.held": 1}
    assert built.summary["verdict"]["sentences"][1:3] == [
        "Inside the 2 regions: 1 sharper, 1 held.",
        "1 wants a look (region held 1).",
    ]
    assert built.summary["made"] == ["1 made by the model without a reference"]
    card = built.summary["shown"][0]
    assert card["said"][0] == "Held: its text reads worse than before; it keeps the source's pixels."


def test_a_run_in_which_all_is_dead_has_a_report_that_says_why(tmp_path: Path) -> None:
    run = MadeRun(tmp_path / "run")
    for i in range(3):
        run.add_dead(f"i{i}", "image.truncated", "a <b>damaged</b> JPEG; export it again")
    built = _report(run, tmp_path / "report")
    assert built.summary["verdict"]["state"] == "attention"
    assert built.summary["verdict"]["sentences"][0] == "0 of 3 pictures are refined, 3 could not be refined."
    assert built.summary["reasons"]["dead"] == [
        {
            "reason": "image.truncated",
            "count": 3,
            "example": "i0",
            "message": "a <b>damaged</b> JPEG; export it again",
        }
    ]
    assert "a &lt;b&gt;damaged&lt;/b&gt; JPEG" in Path(built.page).read_text()


def _in_another_pose(edit: MadeEdit) -> tuple[np.ndarray, np.ndarray]:
    """The sharp crop as a photo of it from another side, and the crop itself."""
    sharp = np.ascontiguousarray(crop_of(edit.sharp, edit.crop))
    height, width = sharp.shape[:2]
    turned = cv2.getRotationMatrix2D((width / 2, height / 2), 12, 0.9)
    return cv2.warpAffine(sharp, turned, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT), sharp


def test_a_fitting_reference_is_shown_in_the_pose_of_the_region(tmp_path: Path) -> None:
    edit = photo_edit(8)
    reference, _ = _in_another_pose(edit)
    window, marked = (np.ascontiguousarray(crop_of(a, edit.crop)) for a in (edit.before, edit.mask))
    found = register(reference, window, marked)
    assert found.agreement.verdict == "fits"
    assert found.transform is not None
    pose = shift(edit.crop[0], edit.crop[1]) @ found.transform
    agreement = replace(found.agreement, pose=tuple(pose.ravel().tolist()))
    refused = register(photo_edit(9).sharp, window, marked).agreement
    assert refused.verdict == "refused"
    run = MadeRun(tmp_path / "run")
    run.add("fitting", edit, reference=reference, agreement=agreement, made_by="transfer")
    run.add("other", edit, reference=photo_edit(9).sharp, agreement=refused)
    run.add("none", edit)
    built = _report(run, tmp_path / "report")
    seen = {name: c for (_, name), c in read_close_ups(built.folder).items()}
    assert {name: c.said for name, c in seen.items()} == {
        "fitting": "reference, fitted",
        "other": "reference, refused",
        "none": "",
    }
    before, posed, after = (
        np.asarray(Image.open(BytesIO(data)).convert("L"), np.float32)
        for data in (seen["fitting"].before, seen["fitting"].reference, seen["fitting"].after)
    )
    assert before.shape == posed.shape == after.shape
    inside = np.s_[posed.shape[0] // 3 : -posed.shape[0] // 3, posed.shape[1] // 3 : -posed.shape[1] // 3]
    assert np.abs(posed[inside] - after[inside]).mean() < 0.6 * np.abs(before[inside] - after[inside]).mean()
    assert built.summary["made"] == [
        "1 taken from a reference that fits, without the model",
        "1 made by the model without a reference",
        "1 made by the model, as the reference does not fit",
    ]
    said = {c["id"]: c for c in built.summary["shown"]}
    assert "Taken from its reference, without the model." in said["fitting"]["said"]
    assert any(line.startswith("the reference was refused: ") for line in said["other"]["numbers"])
    rows = {r["item_id"]: r["regions"][0] for r in read_items(built.folder).to_pylist()}
    assert rows["fitting"]["agreement"]["verdict"] == "fits"
    assert (rows["none"]["reference"], rows["none"]["agreement"]) == ("none", None)


def test_a_reference_that_is_gone_costs_its_picture_only(tmp_path: Path) -> None:
    edit = photo_edit(8)
    run = MadeRun(tmp_path / "run")
    run.add("a", edit, reference=edit.sharp)
    uri = run.write()
    (tmp_path / "run/in/00000-reference.png").unlink()
    built = build_report(DriftReportConfig(runs=(uri,), out=str(tmp_path / "report"), measure=ONE))
    (seen,) = read_close_ups(built.folder).values()
    assert (seen.reference, seen.said) == (b"", "")
    assert seen.after[:4] == b"RIFF"


def _item(name: str, change: float, status: str = "done") -> ItemMeasure:
    metrics = {"change_de00": change, "change_levels": 5.0, "detail": 1.0, "detail_lost": 0.0}
    regions = (RegionMeasure("small", "", metrics | {"change_de00": 0.0}), RegionMeasure("large", "", metrics))
    return ItemMeasure("run", name, "f", status, "", "", "i", "o", metrics=metrics, regions=regions)  # type: ignore[arg-type]


def test_the_most_changed_and_the_typical_are_chosen_and_few_of_them() -> None:
    items = [_item(f"i{i:03d}", float(i)) for i in range(101)]
    chosen = choose(items)
    by_group = {g: [c.item.item_id for c in chosen if c.group == g] for g in MOST}
    assert by_group == {
        "held": [],
        "look": [],
        "most": ["i100", "i099", "i098", "i097"],
        "typical": ["i050", "i051", "i049", "i052"],
    }
    assert {c.region_id for c in chosen} == {"large"}
    assert [c.group for c in choose(items[:1])] == ["typical"]
    assert choose([]) == []


@pytest.mark.parametrize(
    ("done", "held", "dead", "published", "said"),
    [
        (1, 0, 0, None, "The picture is refined."),
        (4, 0, 0, 4, "All 4 pictures are published."),
        (3, 1, 0, 3, "3 of 4 pictures are published, 1 held for a person to decide."),
        (3, 0, 1, 1, "1 of 4 pictures is published (2 more refined, not published), 1 could not be refined."),
    ],
)
def test_what_became_of_the_pictures_is_said_plainly(
    done: int, held: int, dead: int, published: int | None, said: str
) -> None:
    states = ["done"] * done + ["held"] * held + ["dead"] * dead
    assert outcome_in_words([_item(str(i), 1.0, s) for i, s in enumerate(states)], published) == said


def test_nothing_is_said_of_how_regions_were_made_where_nobody_recorded_it() -> None:
    assert made_in_words([_item("a", 1.0)]) == []
