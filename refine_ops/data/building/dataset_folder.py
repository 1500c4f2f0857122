"""The dataset folder: what set it holds, its plan, and which shards are still to do."""

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from refine_ops import __version__, identity, storage
from refine_ops.data.building.parts import done_parts
from refine_ops.data.config import BuildDatasetConfig, ManifestSource
from refine_ops.data.plan import PlannedSample, Shards, from_table, plan_rows, plan_synthetic, to_table
from refine_ops.data.schema import VERSION
from refine_ops.data.source_manifest import read_manifest
from refine_ops.data.stages.damages import check_exclude
from refine_ops.data.synthetic.maker import FAMILIES, asset_hashes
from refine_ops.errors import ItemError, JobError

_FREE_ON_RESUME = {
    *("out", "workers", "access", "timeout_s", "requests", "backoff_s", "cache", "base_url", "allow_hub"),
    *("usd_per_million_input_tokens", "usd_per_million_output_tokens"),
}
"""Settings that say where and how fast, not what; wherever in the configuration they stand."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """How many samples a set plans, and the shards that are still to do."""

    samples: int
    parts: int
    todo: Shards


def open_folder(config: BuildDatasetConfig) -> BuildPlan:
    """Plan a new set in `out`, or take up the one that is there.

    Raises:
        JobError: the folder holds a set of another configuration, the manifest cannot be read, or `exclude` names a
            family that does not exist.
    """
    out, source = storage.resolve(config.out), config.source
    if isinstance(source, ManifestSource):
        manifest = _read_manifest(source.manifest)
    else:
        manifest = json.dumps(asset_hashes(source)).encode()
    storage.probe_writable(out)
    _take_up(out, config, manifest)
    uri = storage.join(out, "plan.parquet")
    if storage.exists(uri):
        planned = from_table(pq.read_table(io.BytesIO(storage.read(uri))))
    else:
        planned = _planned(config, manifest)
        sink = io.BytesIO()
        pq.write_table(to_table(planned), sink, compression="zstd")
        storage.write(uri, sink.getvalue())
    size = config.samples_per_part
    shards = {i // size: planned[i : i + size] for i in range(0, len(planned), size)}
    done = done_parts(out)
    return BuildPlan(len(planned), len(shards), {n: c for n, c in shards.items() if n not in done})


def _read_manifest(uri: str) -> bytes:
    try:
        return storage.read(storage.resolve(uri))
    except ItemError as e:
        raise JobError(f"manifest: {e}") from e


def parts_of(config: BuildDatasetConfig, manifest: bytes) -> dict[str, Any]:
    """Everything that determines the samples but the images themselves, which the plan holds by hash.

    Local checkpoints count by their files, wherever they lie; one on the hub by its name.
    `manifest` is the manifest's bytes, or for the synthetic source the list of its assets' hashes.
    """
    return {
        "config": _without(_with_weights(config.model_dump(mode="json")), _FREE_ON_RESUME),
        "manifest": hashlib.sha256(manifest).hexdigest(),
        "versions": {"schema": VERSION, "package": __version__, "numpy": np.__version__, "opencv": cv2.__version__},
    }


def _take_up(out: str, config: BuildDatasetConfig, manifest: bytes) -> None:
    """Record the set's identity, or compare with the recorded one."""
    parts = parts_of(config, manifest)
    record = {
        "version": VERSION,
        "fingerprint": identity.digest(parts),
        "config": config.model_dump(mode="json"),
        "parts": parts,
    }
    found = identity.record_once(storage.join(out, "build.json"), record)
    if found.get("fingerprint") == record["fingerprint"]:
        return
    # Earlier releases recorded the configuration and the fingerprint alone.
    there = found.get("parts") or {**parts, "config": _without(_with_weights(found.get("config")), _FREE_ON_RESUME)}
    differing = identity.differences(there, parts)
    listed = "; ".join(map(str, differing)) or "the manifest, a model's files or a library's version"
    raise JobError(f"{out} holds another set: {listed}. Use a new folder, or undo the change")


def _planned(config: BuildDatasetConfig, manifest: bytes) -> list[PlannedSample]:
    source = config.source
    if not isinstance(source, ManifestSource):
        check_exclude(config.exclude, FAMILIES)
        return plan_synthetic(source.count, config.seed, config.validation_share)
    rows = read_manifest(manifest, storage.resolve(source.manifest), config.access)
    check_exclude(config.exclude, {name for row in rows for name in row.families})
    kept = [row for row in rows if not set(row.families) & set(config.exclude)]
    if not kept:
        raise JobError(f"exclude {config.exclude} leaves no row of the manifest")
    return plan_rows(kept, source.samples_per_row, config.seed, config.validation_share, config.limits)


def _with_weights(value: Any) -> Any:
    """The configuration with a hash of its files for each local checkpoint's path."""
    if isinstance(value, list):
        return [_with_weights(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "allow_hub" in value and Path(value["model"]).is_dir():
        from refine_ops.model.fingerprint import hash_folder  # imports torch, as what is named here does

        return {**value, "model": hash_folder(Path(value["model"]))}
    return {k: _with_weights(v) for k, v in value.items()}


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {k: _without(v, names) for k, v in value.items() if k not in names}
    return [_without(v, names) for v in value] if isinstance(value, list) else value
