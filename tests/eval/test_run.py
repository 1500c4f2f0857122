"""Whole evaluations on the frozen cases with the bundled model: ranks, strictness, resumption, comparison."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from skimage import io as picture

from refine_ops.config import RefineSettings
from refine_ops.errors import EXIT_BAD_INPUT, EXIT_OK, ItemError, JobError
from refine_ops.eval import measure
from refine_ops.eval.cases.case_set import load_cases, save_cases
from refine_ops.eval.compare import compare
from refine_ops.eval.config import (
    CONTROLS,
    ControlMethod,
    FolderMethod,
    PipelineMethod,
    RefineEvalConfig,
    RefinerMethod,
)
from refine_ops.eval.methods import open
from refine_ops.eval.methods.method import MethodOutput
from refine_ops.eval.results import load_results
from refine_ops.eval.run import Evaluation, evaluate
from tests.support import tiny_checkpoints

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # half a minute of one core, but of a core that may be shared
OURS = RefinerMethod(name="ours")
CONFINED = RefinerMethod(
    name="ours, confined",
    refine=RefineSettings.model_validate({"paste": {"confine": "region"}, "model": {"reference": "as_given"}}),
    ablation=True,
)


def config(frozen: str, out: Path, *chosen: Any, **changes: Any) -> RefineEvalConfig:
    """Text is read in one test alone: recognising it takes longer than everything else."""
    metrics = {"text": False} | changes.pop("metrics", {})
    changes = {"gallery": 4, "metrics": metrics} | changes
    return RefineEvalConfig(cases=frozen, out=str(out), methods=chosen, resamples=400, **changes)


@pytest.fixture(scope="module")
def evaluation(frozen: str, alexnet: str, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    out = tmp_path_factory.mktemp("eval")
    return evaluate(config(frozen, out, OURS, CONFINED, *CONTROLS, metrics={"weights": alexnet}))


def values(evaluation: Evaluation, method: str, metric: str) -> list[float]:
    return [v for _, v in evaluation.results.values(method, metric).values()]


def mean(evaluation: Evaluation, method: str, metric: str) -> float:
    found = values(evaluation, method, metric)
    return sum(found) / len(found)


def test_controls_rank_as_they_must(evaluation: Evaluation) -> None:
    truth, as_is, blurred, coded = (c.name for c in CONTROLS)
    assert max(values(evaluation, truth, "mse")) == 0
    assert max(values(evaluation, truth, "lpips_alex")) == 0
    assert max(values(evaluation, truth, "seam")) == 0
    assert set(values(evaluation, truth, "psnr_mask")) == {100}
    for metric in ("mse", "lpips_alex"):
        assert 0 < mean(evaluation, as_is, metric) < mean(evaluation, blurred, metric)
        assert mean(evaluation, as_is, metric) == pytest.approx(mean(evaluation, coded, metric), rel=0.1)
    assert min(values(evaluation, coded, "changed_outside_px")) > 1000
    for strict in (truth, as_is, blurred):
        assert max(values(evaluation, strict, "changed_outside_px")) == 0
    assert set(values(evaluation, as_is, "ssim_bg")) == {1.0}
    assert max(values(evaluation, coded, "ssim_bg")) < 0.999


def test_text_is_read_where_a_case_has_some(frozen: str, tmp_path: Path) -> None:
    shutil.copytree(frozen, tmp_path / "set")
    with_text = [i for i in load_cases(frozen).inputs if i.text][:2]
    save_cases(str(tmp_path / "set"), with_text)
    truth, blurred = CONTROLS[0], CONTROLS[2]
    found = evaluate(config(str(tmp_path / "set"), tmp_path / "out", truth, blurred, metrics={"text": True}))
    assert len(values(found, truth.name, "text")) == len(with_text) == 2
    assert mean(found, truth.name, "text") > mean(found, blurred.name, "text")


def test_our_background_is_exactly_the_inputs_in_png_and_jpeg(evaluation: Evaluation) -> None:
    formats = {i.output.rpartition(".")[2] for i in _stored(evaluation, "ours")}
    assert formats == {"png", "jpg"}
    for method in ("ours", "ours, confined"):
        assert max(values(evaluation, method, "changed_outside_px")) == 0
        assert max(values(evaluation, method, "max_diff_outside")) == 0
        assert set(values(evaluation, method, "ssim_strict")) == {1.0}
    assert len(values(evaluation, "ours", "changed_outside_px")) == 12


def test_only_what_a_model_made_has_a_raw_drift(evaluation: Evaluation) -> None:
    for metric in ("raw_de00", "raw_shift_px"):
        assert len(values(evaluation, "ours", metric)) == 12
        assert not values(evaluation, CONTROLS[0].name, metric)
    assert min(values(evaluation, "ours", "raw_de00")) > 0


def test_confined_to_the_region_nothing_outside_the_box_changes(evaluation: Evaluation) -> None:
    assert set(values(evaluation, "ours, confined", "ssim_bg")) == {1.0}
    assert set(values(evaluation, "ours, confined", "lpips_bg")) == {0.0}
    assert set(values(evaluation, "ours, confined", "mse_bg")) == {0.0}
    jpeg = [i for i in evaluation.results.values("ours, confined", "mse") if i.startswith("person-smile")]
    assert jpeg, "no JPEG case was refined"
    assert min(values(evaluation, "ours", "ssim_bg")) > 0.99


def test_tables_1_and_3_have_intervals_and_say_what_is_missing(evaluation: Evaluation) -> None:
    page = evaluation.markdown
    assert "## Table 1. Reference-based refinement" in page
    assert "| RefineAnything * | 0.020 | 0.155 |" in page
    ours = next(line for line in page.splitlines() if line.startswith("| ours | 0."))
    assert "[" in ours
    assert "missing" in ours
    assert "| published * | not available |" in page
    assert "No VLM was configured" in page
    assert "no weights: facebook/dinov2-large is no folder here" in page
    assert "ours, confined" in page.split("## Table 3")[1].split("## ")[0]
    assert "ours, confined" not in page.split("## Table 1")[1].split("## ")[0]
    html = Path(evaluation.uri, "tables.html").read_text()
    assert "default-src 'none'" in html
    assert html.count("<table>") == page.count("\n## ")


def test_the_gallery_shows_input_truth_and_methods_without_any_request(evaluation: Evaluation) -> None:
    page = Path(evaluation.uri, "gallery", "index.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<section>") == 4
    assert page.count("<figure>") == 4 * (2 + 2 + len(CONTROLS))
    assert all(picture.imread(p).shape[2] == 3 for p in Path(evaluation.uri, "gallery").glob("*.png"))


def watch_meters(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Class names of the meters that are used from now on, once per case."""
    used: list[str] = []
    store = measure._store

    def watched(stored: Any, meter: Any, *rest: Any) -> None:
        used.append(type(meter).__name__)
        store(stored, meter, *rest)

    monkeypatch.setattr(measure, "_store", watched)
    return used


def test_a_rerun_computes_only_what_is_new(
    evaluation: Evaluation, frozen: str, alexnet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(evaluation.uri, out)
    run: list[str] = []
    original = open.OurRefiner.run

    def watched(self: Any, inputs: Any) -> list[MethodOutput | ItemError]:
        run.extend(i.item.input_id for i in inputs)
        return original(self, inputs)

    monkeypatch.setattr(open.OurRefiner, "run", watched)
    measured = watch_meters(monkeypatch)
    same = config(frozen, out, OURS, *CONTROLS, metrics={"weights": alexnet})
    again = evaluate(same)
    assert (run, measured) == ([], [])
    assert values(again, "ours", "lpips_alex") == values(evaluation, "ours", "lpips_alex")
    (outputs,) = (path for path in Path(out, "outputs").glob("ours-*") if "confined" not in path.name)
    lost = next(outputs.glob("text-sign.*.png"))
    shutil.rmtree(Path(out, "measures", outputs.name))
    lost.unlink()
    redone = evaluate(same)
    assert run == [".".join(lost.name.split(".")[:3])]
    assert len(measured) == 4 * 4
    assert sorted(redone.results.scores, key=repr) == sorted(again.results.scores, key=repr)


def test_new_weights_add_their_metric_and_leave_the_rest(
    frozen: str, alexnet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = evaluate(config(frozen, tmp_path, CONTROLS[1]))
    assert not values(without, "input as it is", "lpips_alex")
    measured = watch_meters(monkeypatch)
    with_ = evaluate(config(frozen, tmp_path, CONTROLS[1], metrics={"weights": alexnet}))
    assert set(measured) == {"LpipsAlexMeter"}
    assert len(values(with_, "input as it is", "lpips_alex")) == 12


def test_outputs_made_elsewhere_are_found_by_input_id(evaluation: Evaluation, frozen: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for stored in _stored(evaluation, "ground truth")[1:]:
        shutil.copy(stored.path, made / f"{stored.input_id}.png")
    folder = FolderMethod(name="elsewhere", folder=str(made))
    found = evaluate(config(frozen, tmp_path / "out", folder, CONTROLS[1]))
    assert len(values(found, "elsewhere", "mse")) == 11
    assert max(values(found, "elsewhere", "mse")) == 0
    assert "output.missing" in found.markdown
    assert "(11/12)" in found.markdown


def test_a_method_that_fails_on_one_input_keeps_the_others(frozen: str, tmp_path: Path, monkeypatch: Any) -> None:
    def run(self: Any, inputs: Any) -> list[MethodOutput | ItemError]:
        return [
            ItemError("control.refused", "no") if "soft" in i.item.input_id else MethodOutput(i.data) for i in inputs
        ]

    monkeypatch.setattr(open.ControlOutputs, "run", run)
    found = evaluate(config(frozen, tmp_path, CONTROLS[1]))
    assert len(values(found, "input as it is", "mse")) == 8
    assert "control.refused: no" in found.markdown


def test_compare_fails_on_a_worse_method_and_passes_an_equal_or_better_one(evaluation: Evaluation) -> None:
    truth, as_is, blurred, coded = (c.name for c in CONTROLS)
    uri = evaluation.uri
    assert compare(uri, uri).exit_code == EXIT_OK
    assert compare(uri, uri, method_a=as_is, method_b=truth).exit_code == EXIT_OK
    leaky = compare(uri, uri, method_a=as_is, method_b=coded)
    assert (leaky.exit_code, leaky.leaks) == (EXIT_BAD_INPUT, 12)
    worse = compare(uri, uri, method_a=as_is, method_b=blurred, metrics=("mse",), alpha=0.2)
    assert worse.exit_code == EXIT_BAD_INPUT, "four cases give p = 0.125 at best"
    assert "B is worse" in worse.markdown
    assert worse.metrics[0].gain.mean < 0
    with pytest.raises(JobError, match="no method 'nobody'"):
        compare(uri, uri, method_a="nobody")
    with pytest.raises(JobError, match="no metric 'beauty'"):
        compare(uri, uri, metrics=("beauty",))


def test_results_of_other_cases_are_not_compared(evaluation: Evaluation, frozen: str, tmp_path: Path) -> None:
    shutil.copytree(frozen, tmp_path / "set")
    save_cases(str(tmp_path / "set"), load_cases(frozen).inputs[:6])
    evaluate(config(str(tmp_path / "set"), tmp_path / "out", CONTROLS[1]))
    with pytest.raises(JobError, match="different case sets"):
        compare(evaluation.uri, str(tmp_path / "out"))
    with pytest.raises(JobError, match="no results can be read"):
        load_results(str(tmp_path))


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="method names must differ"):
        RefineEvalConfig(out="x", methods=(OURS, ControlMethod(name="ours", control="identity")))


def test_a_diffusers_pipeline_is_a_method_and_its_options_are_checked(
    frozen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as module

    from refine_ops.model.tiny import WEIGHTS

    monkeypatch.setattr(module, "VAE_IMAGE_SIZE", 64 * 64)
    monkeypatch.setattr(module, "CONDITION_IMAGE_SIZE", 56 * 56)
    edit = PipelineMethod(name="edit", model=str(WEIGHTS), steps=1, true_cfg_scale=1.0, pixels=64 * 64, reference=True)
    found = evaluate(config(frozen, tmp_path / "a", edit, setting="reference", limit=1))
    assert len(values(found, "edit", "mse")) == 3
    assert min(values(found, "edit", "changed_outside_px")) > 1000, "a whole-image method cannot keep the background"
    with pytest.raises(JobError, match="is not on this machine"):
        evaluate(config(frozen, tmp_path / "c", PipelineMethod(name="edit", model="org/name"), limit=1))


def test_an_option_that_the_pipeline_does_not_take_is_an_error(frozen: str, tmp_path: Path) -> None:
    folder = tiny_checkpoints.stable_diffusion(tmp_path / "sd")
    edit = PipelineMethod(name="edit", model=str(folder), steps=1, true_cfg_scale=2.0)
    with pytest.raises(JobError, match=r"takes no .*true_cfg_scale"):
        evaluate(config(frozen, tmp_path / "out", edit, limit=1))


class _Output:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.input_id = ".".join(path.name.split(".")[:3])
        self.output = path.name


def _stored(evaluation: Evaluation, method: str) -> list[_Output]:
    slug = method.replace(" ", "-")
    found = [p for p in Path(evaluation.uri, "outputs").glob(f"{slug}-*/*") if len(p.parent.name) == len(slug) + 17]
    return [_Output(p) for p in sorted(found)]


def test_config_and_results_are_kept_with_the_digest_of_the_cases(evaluation: Evaluation) -> None:
    stored = json.loads(Path(evaluation.uri, "config.json").read_text())
    assert RefineEvalConfig.model_validate(stored).methods[0] == OURS
    read = load_results(evaluation.uri)
    assert read == evaluation.results
