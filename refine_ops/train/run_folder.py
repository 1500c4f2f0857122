"""A training run's folder and its plan: what may be drawn, fixed when the run starts.

RUN/
  train.json        settings and fingerprint; a resume must have the same
  plan.parquet      the encoded crops that are drawn; a resume reads it and encodes nothing
  skipped.json      samples that could not be used, and why
  metrics.jsonl     one line per step and validation
  checkpoints/  validation/*.png  logs/ (TensorBoard)  train.log
  adapter/pytorch_lora_weights.safetensors   the result; result.json is written after it
  stopped.json      written instead, where the loss diverged: step, reason, samples
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import identity, storage
from refine_ops.errors import JobError
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.samples.encode import Planned, Skipped

_FREE: Final = {
    "run": {
        "steps", "checkpoint_every", "keep_checkpoints", "validate_every", "grid_items", "tracker", "save_dtype",
        "loader_workers", "processes", "loss_limit", "checkpointing", "sharding",
    },
    "model": {"device", "registry", "allow_hub", "batch_size", "compile", "speed", "steps"},
}  # fmt: skip
"""Settings that a resume may change: none of them decides what is drawn or how it is weighed."""


def training_settings(config: TrainLoraConfig) -> dict[str, Any]:
    """The settings that a resume must not change."""
    values = config.model_dump(mode="json", exclude={"out", "cache", "promotion", "limits", "registry", "label"})
    for group, names in _FREE.items():
        for name in names:
            values[group].pop(name)
    return values


def open_run(config: TrainLoraConfig, fingerprint: Mapping[str, str], data: str) -> Path:
    """Create the run's folder, or check that it belongs to the same training.

    Raises:
        JobError: the folder holds another training; the message names what differs.
    """
    folder = Path(config.out)
    record = {"settings": training_settings(config), "fingerprint": dict(fingerprint), "data": {"samples": data}}
    found = identity.record_once(str(folder / "train.json"), record)
    if differing := identity.compare(found, record, ("settings", "fingerprint", "data")):
        listed = "; ".join(map(str, differing))
        raise JobError(
            f"{folder} holds another training: {listed}. Use a new `out` ({{fingerprint}} in it is one "
            "for each data set and settings), or undo the change"
        )
    return folder


def write_part(folder: Path, rank: int, results: Sequence[Planned | Skipped]) -> None:
    """One rank's share of the plan."""
    planned = [asdict(result) for result in results if isinstance(result, Planned)]
    skipped = [asdict(result) for result in results if isinstance(result, Skipped)]
    payload = json.dumps({"planned": planned, "skipped": skipped}).encode()
    storage.write(str(folder / f"plan.part-{rank:05d}.json"), payload)


def merge_parts(folder: Path, ranks: int) -> None:
    """Put the ranks' shares together, sorted, so that the plan does not depend on the number of ranks.

    Raises:
        JobError: more than one sample in ten cannot be used.
    """
    parts = [folder / f"plan.part-{rank:05d}.json" for rank in range(ranks)]
    read = [json.loads(part.read_text()) for part in parts]
    planned = sorted(
        (row for part in read for row in part["planned"]), key=lambda r: (r["sample_id"], r["variant"], r["twin"])
    )
    skipped = [row for part in read for row in part["skipped"]]
    storage.write(str(folder / "skipped.json"), json.dumps(skipped, indent=1).encode())
    if len(skipped) * 10 > len(skipped) + len(planned):
        raise JobError(
            f"{len(skipped)} of {len(skipped) + len(planned)} crops cannot be used, the first because: "
            f"{skipped[0]['message']} (all in {folder / 'skipped.json'}); repair the dataset"
        )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(planned), sink)
    storage.write(str(folder / "plan.parquet"), sink.getvalue())
    for part in parts:
        part.unlink()


def read_plan(folder: Path) -> list[Planned] | None:
    """The run's plan, or None where it is not fixed yet."""
    path = folder / "plan.parquet"
    if not path.exists():
        return None
    return [Planned(**row) for row in pq.read_table(path).to_pylist()]


def data_digest(plan: Sequence[Planned]) -> dict[str, str]:
    """What was trained on: how many crops, and a digest of their contents."""
    keys = "\n".join(sorted(row.key for row in plan))
    count = sum(row.split == "train" for row in plan)
    return {"crops": str(count), "digest": storage.sha256(keys.encode())}
