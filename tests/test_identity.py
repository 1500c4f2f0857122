"""What a folder depends on is recorded once, and a refusal names exactly what differs."""

import json
from pathlib import Path

import pytest

from refine_ops.config import RefineSettings
from refine_ops.errors import JobError
from refine_ops.identity import PIXEL_PACKAGES, compare, differences, digest, flat, record_once, recorded, versions
from refine_ops.job.run_folder import fingerprint_parts


def test_differences_name_the_leaf_and_both_values() -> None:
    there = {"loss": {"alpha": 9.0, "shift": 1.0}, "gone": 1, "seed": 0}
    now = {"loss": {"alpha": 3.0, "shift": 1.0}, "seed": 0, "fresh": [1]}
    assert [str(d) for d in differences(there, now)] == [
        "fresh: None there, [1] now",
        "gone: 1 there, None now",
        "loss.alpha: 9.0 there, 3.0 now",
    ]
    assert differences(there, there) == []


def test_the_first_record_stays(tmp_path: Path) -> None:
    uri = str(tmp_path / "train.json")
    assert recorded(uri) is None
    first = {"parts": {"a": 1}, "at": 1}
    assert record_once(uri, first) == first
    other = {"parts": {"a": 2}, "at": 2}
    assert record_once(uri, other) == first
    assert [str(d) for d in compare(recorded(uri) or {}, other, ("parts",))] == ["a: 1 there, 2 now"]


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_what_is_no_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(JobError, match=r"run\.json"):
        record_once(str(tmp_path / "run.json"), {})


def test_digests_do_not_depend_on_order_and_absent_packages_have_a_version() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert versions(["no-such-package-at-all"]) == {"no-such-package-at-all": "absent"}
    assert flat({"a": {"b": None, "c": [1]}}, "settings.") == {"settings.a.b": "null", "settings.a.c": "[1]"}


def test_a_runs_parts_hold_every_package_that_decides_a_pixel() -> None:
    parts = fingerprint_parts(RefineSettings(), {"x": "1", "version.torch": "2"})
    assert {f"package.{name}" for name in PIXEL_PACKAGES} - {"package.torch"} < parts.keys()
    assert parts["weights.version.torch"] == "2", "what the model's own parts name is not named again"
    assert "package.torch" not in parts
    assert parts["settings.paste.blur_px"] == json.dumps(RefineSettings().paste.blur_px)
    assert parts["weights.x"] == "1"
