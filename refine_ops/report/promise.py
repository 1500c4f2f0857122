"""The promise in force and how it fares: what the gate says of its own rate, and what people say who looked."""

from collections.abc import Iterable, Mapping
from typing import Any

from refine_ops.judge.bound import lower_bound, upper_bound
from refine_ops.report.review import Reviewed

Promises = Mapping[str, Mapping[str, Any]]

_MAKERS = {"model": "the model", "transfer": "transfer"}
_EACH_SIDE = 0.975
"""Confidence of each end of a 95 % interval."""


def promise_in_words(promises: Iterable[Promises | None], reviewed: Reviewed) -> list[str]:
    """Sentences about what is promised of the published regions, and about the share that people rejected since.

    Args:
        promises: Of each run (`ReportedRun.promises`); None where its record does not say.
    """
    known = [run for run in promises if run is not None]
    said = []
    for maker, name in _MAKERS.items():
        found = [run[maker] for run in known if maker in run]
        said += list(dict.fromkeys(_promised(name, one) for one in found))
    if known and not any(known):
        said.append("No calibrated gate ruled here: nobody promises how much of what is published is worse.")
    if reviewed.outputs:
        said.append(_fares(reviewed, max((p["max_harm"] for run in known for p in run.values()), default=None)))
    return said


def _promised(name: str, promise: Mapping[str, Any]) -> str:
    return (
        f"Promised of what {name} makes: of the published at most {promise['max_harm']:.0%} is worse than before "
        f"({promise['confidence']:.0%} confidence; at calibration {promise['worse']:,} of {promise['cases']:,} were)."
    )


def _fares(reviewed: Reviewed, most: float | None) -> str:
    low = lower_bound(reviewed.rejected, reviewed.outputs, _EACH_SIDE)
    high = upper_bound(reviewed.rejected, reviewed.outputs, _EACH_SIDE)
    said = (
        f"People rejected {reviewed.rejected:,} of {reviewed.outputs:,} outputs they looked at "
        f"({reviewed.rejected / reviewed.outputs:.1%}; 95% interval {low:.1%} to {high:.1%})"
    )
    if most is not None and low > most:
        return (
            f"{said}, more than was promised: calibrate the gate with these decisions (refine-ops calibrate --reviews)."
        )
    return said + "."
