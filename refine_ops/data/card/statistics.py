"""What a set consists of: counts, distributions, reject reasons, the validator's false-positive rate, throughput."""

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from refine_ops import storage
from refine_ops.data.building.parts import read_parts

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def summarise(out: str) -> dict[str, Any]:
    """Everything the card states, as JSON. `throughput` and `vlm` depend on the machine, the rest on the set alone."""
    samples, rejects = read_parts(out, "samples"), read_parts(out, "rejects")
    timings = [json.loads(storage.read(uri)) for uri in storage.list_files(storage.join(out, "timings"), ".json")]
    return {
        "samples": samples.num_rows,
        "rejects": rejects.num_rows,
        "by_setting_and_split": _count(samples, "setting", "split"),
        "source_images_by_split": _sources_by_split(samples),
        "mask_kinds": _count(samples, "mask_kind"),
        "families": _flat_count(samples, "families"),
        "licences": _flat_count(samples, "licences"),
        "models": _models(samples),
        "change_over_mask": _quantiles(json.loads(s)["change"] for s in samples["scores"].to_pylist()),
        "object_box_area_share": _quantiles(_box_shares(samples)),
        "width_over_height": _quantiles(samples["width"].to_numpy() / samples["height"].to_numpy()),
        "reject_reasons": _count(rejects, "stage", "reason"),
        "controls": _controls(samples, rejects),
        "throughput": _throughput(timings),
        "vlm": _usage(timings),
    }


def _count(table: pa.Table, *columns: str) -> dict[str, int]:
    """How often each combination of values occurs, most frequent first."""
    rows = zip(*(table[c].to_pylist() for c in columns), strict=True)
    return _ranked(Counter(" / ".join(row) for row in rows))


def _flat_count(table: pa.Table, column: str) -> dict[str, int]:
    return _ranked(Counter(value for values in table[column].to_pylist() for value in values))


def _ranked(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _models(samples: pa.Table) -> dict[str, int]:
    named = (json.loads(text).items() for text in samples["models"].to_pylist())
    return _ranked(Counter(f"{stage}: {model}" for items in named for stage, model in items))


def _sources_by_split(samples: pa.Table) -> dict[str, int]:
    """Distinct source files per split."""
    seen: dict[str, set[str]] = {}
    for split, hashes in zip(samples["split"].to_pylist(), samples["source_sha256"].to_pylist(), strict=True):
        seen.setdefault(split, set()).update(hashes)
    return {split: len(hashes) for split, hashes in sorted(seen.items())}


def _box_shares(samples: pa.Table) -> Iterable[float]:
    columns = (samples[c].to_pylist() for c in ("object_box", "width", "height"))
    for (x0, y0, x1, y1), width, height in zip(*columns, strict=True):
        yield (x1 - x0) * (y1 - y0) / (width * height)


def _quantiles(values: Iterable[float]) -> dict[str, float]:
    listed = np.array(list(values), float)
    if not len(listed):
        return {}
    return {
        f"p{int(q * 100)}": round(float(v), 4) for q, v in zip(_QUANTILES, np.quantile(listed, _QUANTILES), strict=True)
    }


def _controls(samples: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    """Clean crops shown to the validator, and how many it called defective; no rate where none was shown."""
    verdicts = [
        scores["control_defect"]
        for table in (samples, rejects)
        for scores in map(json.loads, table["scores"].to_pylist())
        if "control_defect" in scores
    ]
    counted: dict[str, Any] = {"shown": len(verdicts), "called_defective": sum(verdicts)}
    return counted | {"false_positive_rate": sum(verdicts) / len(verdicts)} if verdicts else counted


def _throughput(timings: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per stage: calls, seconds of one worker, and calls per second of one worker; slowest stage first."""
    seconds: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for timing in timings:
        seconds.update(timing["seconds"])
        calls.update(timing["calls"])
    return {
        stage: {"calls": calls[stage], "seconds": round(s, 3), "per_s": round(calls[stage] / s, 2) if s else 0.0}
        for stage, s in sorted(seconds.items(), key=lambda item: -item[1])
    }


def _usage(timings: list[dict[str, Any]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for timing in timings:
        total.update({k: v for k, v in timing["usage"].items() if v is not None})
    return dict(total)
