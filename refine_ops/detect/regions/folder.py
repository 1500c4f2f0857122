"""The folder of one detection: what it depends on, its plan, and which parts are still to do."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from refine_ops import identity, storage
from refine_ops.detect.finding.found import Finder
from refine_ops.detect.finding.load import open_finders
from refine_ops.detect.regions.config import DetectRegionsConfig
from refine_ops.detect.regions.listing import encoded, plan_of
from refine_ops.detect.regions.parts import done_parts
from refine_ops.detect.regions.rules import RuleBook
from refine_ops.errors import ItemError, JobError
from refine_ops.identity import PIXEL_PACKAGES

_FREE: Final = {"out", "workers", "access"}
"""Settings that say where and how fast, not what."""
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class DetectionPlan:
    """All images, and the numbers of the parts that are still to do."""

    images: pa.Table
    parts: int
    todo: list[int]


def resolved(config: DetectRegionsConfig) -> DetectRegionsConfig:
    """The same with the rules' references as URIs, each of which is there.

    Raises:
        JobError: a rule names a reference that is not there, or the folder is no place.
    """
    rules = {}
    try:
        storage.resolve(config.out)
        for name, rule in config.rules.items():
            uri = rule.reference
            if uri is not None:
                uri = storage.resolve(uri)
                storage.check_access(uri, config.access)
                if not storage.exists(uri):
                    raise JobError(f"rules: the reference of {name!r}: {storage.missing(uri)}")
            rules[name] = rule.model_copy(update={"reference": uri})
    except ItemError as e:
        raise JobError(f"settings: {e}") from e
    return config.model_copy(update={"rules": rules})


def open_plan(config: DetectRegionsConfig) -> DetectionPlan:
    """Plan a new folder, or take up the one that is there. Everything that can be refused is refused here.

    Raises:
        JobError: settings, detectors or rules are wrong, or the folder holds what other settings found.
    """
    finders = open_finders(config.detectors, config.limits)
    RuleBook(config, finders)
    out = storage.resolve(config.out)
    uri = storage.join(out, "plan.parquet")
    # Listed before anything is written: where there is no image, no folder is left behind.
    planned = None if storage.exists(uri) else encoded(plan_of(config))
    storage.probe_writable(out)
    _take_up(out, config, finders)
    if planned is not None:
        with contextlib.suppress(ItemError):  # another start was quicker; its list is the plan
            storage.write(uri, planned, only_if_absent=True)
    images = pq.read_table(io.BytesIO(storage.read(uri)))
    parts = -(-images.num_rows // config.part_images)
    done = done_parts(out)
    return DetectionPlan(images, parts, [number for number in range(parts) if number not in done])


def _take_up(out: str, config: DetectRegionsConfig, finders: Sequence[Finder]) -> None:
    """Record what the folder depends on, or compare with what is recorded."""
    parts = {
        "config": config.model_dump(mode="json", exclude=_FREE),
        "detectors": [{"name": finder.name, **finder.versions} for finder in finders],
        "versions": {"schema": VERSION, **identity.versions(p for p in PIXEL_PACKAGES if p in _PACKAGES)},
    }
    record = {"fingerprint": identity.digest(parts), "parts": parts}
    found = identity.record_once(storage.join(out, "detect.json"), record)
    if found.get("fingerprint") == record["fingerprint"]:
        return
    differing = identity.differences(found.get("parts"), parts)
    raise JobError(
        f"{out} holds what other settings found: {'; '.join(map(str, differing))}. Use a new folder, or undo the change"
    )


_PACKAGES: Final = ("numpy", "opencv-python-headless", "pillow")
"""Those that decide a decoded pixel and what is measured of it."""
