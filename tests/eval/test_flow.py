"""The flow as a user starts it: a real Prefect run that leaves results, tables and artifacts."""

from pathlib import Path

import pytest
from prefect.artifacts import Artifact

from flows.refine_eval import compare, refine_eval
from refine_ops.eval.config import CONTROLS, BuildCasesConfig, RefineEvalConfig
from refine_ops.eval.results import load_results


@pytest.mark.processes
def test_the_flow_leaves_results_and_a_markdown_artifact(frozen: str, tmp_path: Path, prefect_api: None) -> None:
    config = RefineEvalConfig(
        cases=frozen, out=str(tmp_path), methods=CONTROLS[:2], limit=2, gallery=0, metrics={"text": False}
    )
    uri = refine_eval(config)
    shown, progress = Artifact.get("refine-eval"), Artifact.get("refine-eval-progress")
    results = load_results(uri)
    assert results.methods == ("ground truth", "input as it is")
    assert len({s.case_id for s in results.scores}) == 2
    assert shown is not None
    assert "Table 1. Reference-based refinement" in str(shown.data)
    assert uri in str(shown.data)
    assert progress is not None
    assert float(str(progress.data)) == 100
    assert compare(uri, uri, method_b="input as it is", metrics=("mse",)).metrics[0].gain.mean < 0


def test_settings_are_checked_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        RefineEvalConfig.model_validate({"out": str(tmp_path), "metrics": {"weight": "typo"}})
    with pytest.raises(ValueError, match="is impossible"):
        BuildCasesConfig(out="x", scribbles=1, seeds=1)
