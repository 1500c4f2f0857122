"""Results: what an earlier release wrote is read."""

from pathlib import Path

from refine_ops.eval.compare import known_metric
from refine_ops.eval.results import Results, Score, load_results, save_results


def test_grades_are_read_under_the_name_they_had_in_0_1_0(tmp_path: Path) -> None:
    score = Score("ours", "0", False, "c", "c-0", "free", "text", "judge_vq", 1, "a VLM", 4.0, "")
    save_results(str(tmp_path), Results((score,), "cases"))
    assert load_results(str(tmp_path)).values("ours", "grade_vq") == {"c-0": ("c", 4.0)}
    assert known_metric("judge_vq") is known_metric("grade_vq")
