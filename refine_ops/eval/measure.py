"""Generating and measuring, case by case, each kept on disk: what is done is never done again.

OUT/outputs/<method>-<digest>/<input_id>.<hash>.<suffix>   what the method made
OUT/alignments/<method>-<digest>/<input_id>.<hash>.json    of our refiner: what `align` found in the patch
OUT/measures/<method>-<digest>/<case_id>.json              its scores, and its failures
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from refine_ops import storage
from refine_ops.config import ImageLimits
from refine_ops.errors import ItemError, JobError
from refine_ops.eval.cases.case_set import CaseSet, EvalInput, LoadedInput, load_input
from refine_ops.eval.methods.method import Method, MethodOutput
from refine_ops.eval.metrics.metric import CaseBatch, Meter, Metric
from refine_ops.eval.results import NOT_APPLICABLE, Score
from refine_ops.image.formats.table import MEDIA_SUFFIX, sniff
from refine_ops.image.read import decode
from refine_ops.proof.allowed import Rules, allowed_change
from refine_ops.records import Alignment, U8Image

_SUFFIXES = tuple(MEDIA_SUFFIX.values())
Stored = dict[str, dict[str, float | None]]
"""Scores by `metric@version:source`, then by input id; None: it does not apply."""


@dataclass(frozen=True, slots=True)
class MethodRun:
    """One method's place on disk."""

    name: str
    digest: str
    ablation: bool
    out: str
    rules: Rules

    @property
    def folder(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40]
        return f"{slug}-{self.digest}"

    def output(self, item: EvalInput, suffix: str) -> str:
        """Named by the input and its content, so that another input of the same name has another output."""
        return storage.join(self.out, "outputs", self.folder, f"{item.input_id}.{item.digest[:8]}{suffix}")

    def alignment(self, item: EvalInput) -> str:
        return storage.join(self.out, "alignments", self.folder, f"{item.input_id}.{item.digest[:8]}.json")

    def measures(self, case_id: str) -> str:
        return storage.join(self.out, "measures", self.folder, f"{case_id}.json")


@dataclass(frozen=True, slots=True, eq=False)
class _DecodedOutput:
    """An output, and what it shows: `uint8 (H, W, 3)`."""

    output: MethodOutput
    image: U8Image


def measure_case(
    run: MethodRun,
    method: Method,
    meters: Sequence[Meter],
    cases: CaseSet,
    items: Sequence[EvalInput],
    limits: ImageLimits,
) -> list[Score]:
    """Scores of one method on one case; generates the outputs and computes the metrics that are not on disk yet."""
    digest = hashlib.sha256("".join(i.digest for i in items).encode()).hexdigest()
    stored, failures = _read(run.measures(items[0].case_id), digest)
    applicable = [m for m in meters if not m.missing]
    wanted = {i.input_id for i in items} - failures.keys()
    absent = [m for m in applicable if any(not wanted <= stored.get(_key(m, x), {}).keys() for x in m.metrics)]
    notes: dict[str, str] = {}
    if absent or (not stored and not failures):
        loaded = [load_input(cases, i, limits) for i in items if i.input_id not in failures]
        outputs, failed = _outputs(run, method, loaded, limits)
        failures |= failed
        good = [i for i in loaded if i.item.input_id in outputs]
        if good:
            batch = _batch(good, [outputs[i.item.input_id] for i in good], run.rules)
            for meter in absent:
                _store(stored, meter, good, meter.measure(batch))
        _write(run.measures(items[0].case_id), digest, stored, failures)
    for meter in meters:
        notes |= {m.name: meter.missing for m in meter.metrics}
    return [
        _score(run, item, metric, meter, stored, failures.get(item.input_id) or notes[metric.name])
        for item in items
        for meter in meters
        for metric in meter.metrics
    ]


def find_output(run: MethodRun, item: EvalInput) -> str | None:
    """URI of a stored output."""
    found = (run.output(item, suffix) for suffix in _SUFFIXES)
    return next((uri for uri in found if storage.exists(uri)), None)


def _outputs(
    run: MethodRun, method: Method, loaded: Sequence[LoadedInput], limits: ImageLimits
) -> tuple[dict[str, _DecodedOutput], dict[str, str]]:
    """Outputs and failures by input id; makes those that are not on disk."""
    found = {i.item.input_id: find_output(run, i.item) for i in loaded}
    todo = [i for i in loaded if found[i.item.input_id] is None]
    failures: dict[str, str] = {}
    for item, made in zip(todo, method.run(todo) if todo else [], strict=True):
        input_id = item.item.input_id
        if isinstance(made, ItemError):
            failures[input_id] = f"{made.reason}: {made}"
            continue
        kind = sniff(made.data)
        if kind is None:
            raise JobError(f"method {run.name!r}, input {input_id}: its output is no image this project reads")
        found[input_id] = run.output(item.item, MEDIA_SUFFIX[kind])
        if made.alignment is not None:  # before the output: what is there has its alignment
            storage.write(run.alignment(item.item), json.dumps(asdict(made.alignment)).encode())
        storage.write(str(found[input_id]), made.data)
    outputs: dict[str, _DecodedOutput] = {}
    for item in loaded:
        uri = found[item.item.input_id]
        if uri is None:
            continue
        data = storage.read(uri)
        image = decode(data, name=uri, limits=limits).rgb
        if image.shape != item.image.shape:
            raise JobError(f"{uri}: {image.shape}, expected {item.image.shape}")
        outputs[item.item.input_id] = _DecodedOutput(MethodOutput(data, _alignment(run.alignment(item.item))), image)
    return outputs, failures


def _batch(loaded: Sequence[LoadedInput], outputs: Sequence[_DecodedOutput], rules: Rules) -> CaseBatch:
    first = loaded[0].item
    allowed = [
        allowed_change([(i.mask, "mask")], (i.item.width, i.item.height), i.data, made.output.data, rules).where
        for i, made in zip(loaded, outputs, strict=True)
    ]
    return CaseBatch(
        inputs=np.stack([i.image for i in loaded]),
        target=np.stack([i.target for i in loaded]),
        outputs=np.stack([made.image for made in outputs]),
        mask=np.stack([i.mask for i in loaded]),
        allowed=np.stack(allowed),
        box=first.object_box,
        instruction=first.instruction,
        setting=first.setting,
        text=first.text,
        references=tuple(i.reference for i in loaded),
        alignments=tuple(made.output.alignment for made in outputs),
    )


def _alignment(uri: str) -> Alignment | None:
    try:
        values: dict[str, Any] = json.loads(storage.read(uri))
    except storage.Missing:
        return None
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Alignment(**fields)


def _store(stored: Stored, meter: Meter, loaded: Sequence[LoadedInput], scores: Mapping[str, Any]) -> None:
    """Keep scores; what has none is kept as such only where asking again would give the same."""
    for metric in meter.metrics:
        values = zip(loaded, scores[metric.name].tolist(), strict=True)
        finite = {i.item.input_id: v if np.isfinite(v) else None for i, v in values}
        stored[_key(meter, metric)] = {k: v for k, v in finite.items() if v is not None or meter.repeatable}


def _score(run: MethodRun, item: EvalInput, metric: Metric, meter: Meter, stored: Stored, note: str) -> Score:
    value = None if meter.missing else stored.get(_key(meter, metric), {}).get(item.input_id)
    return Score(
        method=run.name,
        method_digest=run.digest,
        ablation=run.ablation,
        case_id=item.case_id,
        input_id=item.input_id,
        setting=item.setting,
        category=item.category,
        metric=metric.name,
        version=metric.version,
        source=meter.source,
        value=value,
        note="" if value is not None else note or NOT_APPLICABLE,
    )


def _key(meter: Meter, metric: Metric) -> str:
    return f"{metric.key}:{meter.source}"


def _read(uri: str, digest: str) -> tuple[Stored, dict[str, str]]:
    """What is stored about this very case; nothing if the case has changed since."""
    try:
        content = json.loads(storage.read(uri))
    except storage.Missing:
        return {}, {}
    except ValueError as e:
        raise JobError(f"{uri}: not JSON ({e}); delete it and run again") from e
    return (content["scores"], content["failures"]) if content.get("case") == digest else ({}, {})


def _write(uri: str, digest: str, stored: Stored, failures: Mapping[str, str]) -> None:
    content = {"case": digest, "scores": stored, "failures": failures}
    storage.write(uri, json.dumps(content, indent=1, sort_keys=True).encode())
