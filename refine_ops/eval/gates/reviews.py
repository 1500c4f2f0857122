"""A run's review decisions as judged results: what a person rejected was worse."""

import json
from collections.abc import Iterator
from typing import Any

from refine_ops import storage
from refine_ops.errors import JobError
from refine_ops.job.ledger import read_parts
from refine_ops.job.run_folder import reopen_run
from refine_ops.judge.calibrate import JudgedResult
from refine_ops.records import Evidence


def reviewed_results(run: str) -> list[JudgedResult]:
    """One result for each region that a person saw and approved or rejected, its item being the case.

    Of what is published a person sees the accepted regions, of a held item all of them. Results that were redone since
    are found in the starts that made them. Of an item with several regions to see a rejection does not say which one it
    means: it is left out.

    Raises:
        JobError: no decision, or no outcome with evidence that one is about.
    """
    folder, _ = reopen_run(run)
    rejected = dict(_decisions(folder.uri))
    if not rejected:
        raise JobError(f"{run}: no review decisions there; `refine-ops review apply` adds them")
    results: dict[tuple[str, str, str], JudgedResult] = {}
    uris = list(storage.list_files(folder.outcomes, ".parquet"))
    for part in read_parts(uris, ["fingerprint", "status", "regions"]).values():
        for row in part.to_pylist():
            key = (row["item_id"], row["fingerprint"])
            seen = [r for r in row["regions"] or () if r["evidence"] and (row["status"] == "held" or _accepted(r))]
            if key not in rejected or (rejected[key] and len(seen) > 1):
                continue
            for region in seen:
                evidence = Evidence(**region["evidence"])
                results[*key, region["region_id"]] = JudgedResult(row["item_id"], evidence, rejected[key])
    if not results:
        raise JobError(f"{run}: {len(rejected)} decisions, but no outcome with evidence that one is about")
    return list(results.values())


def _decisions(run: str) -> Iterator[tuple[tuple[str, str], bool]]:
    """(item, fingerprint) and whether it was rejected, in the order in which decisions were applied."""
    for uri in sorted(storage.list_files(storage.join(run, "review"), ".json")):
        for row in json.loads(storage.read(uri))["marks"]:
            yield (row["item_id"], row["fingerprint"]), row["action"] in ("redo", "exclude")


def _accepted(region: dict[str, Any]) -> bool:
    return region["ruling"] is None or bool(region["ruling"]["accepted"])
