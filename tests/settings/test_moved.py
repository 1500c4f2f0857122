"""Settings that moved are taken where earlier releases had them."""

import pytest
from pydantic import ValidationError

from refine_ops.config import RefineBatchConfig, WorkerSettings
from refine_ops.train.config import TrainLoraConfig


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
