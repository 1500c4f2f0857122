"""Settings that moved are taken where earlier releases had them."""

import pytest
from pydantic import ValidationError

from refine_ops.config import RefineBatchConfig, Settings, WorkerSettings
from refine_ops.eval.config import RefineEvalConfig
from refine_ops.report.config import MeasureSettings
from refine_ops.train.config import TrainLoraConfig


@pytest.mark.parametrize(
    ("config", "given", "old", "new", "value"),
    [
        (RefineBatchConfig, {"manifest": "m.jsonl"}, "canary_gates", "canary_limits", {"max_dead": 0.5}),
        (RefineEvalConfig, {"out": "o"}, "judge", "grader", {"vlm": {"kind": "transformers", "model": "m"}}),
        (MeasureSettings, {}, "evidence", "pictures", {"quality": 90}),
        (TrainLoraConfig, {"dataset": "d", "out": "o"}, "gate", "promotion", {"limit": 3}),
    ],
)
def test_a_former_name_is_understood_and_says_so_in_one_line(
    config: type[Settings],
    given: dict[str, object],
    old: str,
    new: str,
    value: object,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = config.model_validate({**given, new: value})
    assert not caplog.messages
    assert config.model_validate({**given, old: value}) == now
    assert caplog.messages == [f"setting {old} is called {new} now, with the same keys in it; the old name will go"]
    with pytest.raises(ValidationError, match="both are given"):
        config.model_validate({**given, old: value, new: value})


def test_the_watchdog_is_the_workers_and_is_taken_where_it_was() -> None:
    old = {"manifest": "m.jsonl", "refine": {"model": {"steps": 2, "watchdog_s": 7.0}, "focus": {"margin": 80}}}
    config = RefineBatchConfig.model_validate(old)
    assert (config.worker.watchdog_s, config.refine.model.steps, config.refine.focus.margin) == (7.0, 2, 80)
    assert RefineBatchConfig.model_validate({**old, "worker": {"read_threads": 1}}).worker.watchdog_s == 7.0
    both = RefineBatchConfig.model_validate({**old, "worker": WorkerSettings(watchdog_s=3.0)})
    assert both.worker.watchdog_s == 3.0


@pytest.mark.parametrize(
    "values",
    [
        {"model": {"watchdog_s": 7.0}},
        {"promotion": {"refine": {"write": {}}}},
        {"promotion": {"refine": {"model": {}}}},
    ],
)
def test_what_changed_nothing_in_a_training_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        TrainLoraConfig.model_validate({"dataset": "d", "out": "o", **values})
