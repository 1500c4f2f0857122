"""Starts without a model: a run folder as many nights leave it, in a moment."""

from pathlib import Path

import pyarrow as pa

from refine_ops import storage
from refine_ops.job import published, starts
from refine_ops.job.ledger import outcomes_table, read_ledger, write_part
from refine_ops.job.run_folder import RunFolder
from refine_ops.records import Outcome


def night(run: Path | str, contents: dict[str, str]) -> RunFolder:
    """One start that refines every item whose content is new, and publishes exactly `contents`."""
    start = starts.open_start(str(run), {})
    folder = RunFolder(str(run), "f", start.number)
    known = read_ledger(folder.outcomes)
    have = {r["item_id"]: r["output_sha256"] for r in known.to_pylist() if r["status"] == "done"}
    fresh = []
    for item, text in contents.items():
        digest = storage.sha256(text.encode())
        if have.get(item) == digest:
            continue
        name = f"deep/{item}.png"
        storage.write(folder.uri_of(folder.object_of(name)), text.encode(), only_if_absent=True)
        storage.write(folder.patch_of(folder.object_of(name), "r0"), b"patch")
        fresh.append(
            Outcome(
                item,
                "f",
                "done",
                output=name,
                object=folder.object_of(name),
                output_sha256=digest,
                output_bytes=len(text),
                start=start.number,
                finished_at=1.0,
            )
        )
    if fresh:
        write_part(folder.outcomes, outcomes_table(fresh), "r0")
    ledger = read_ledger(folder.outcomes, list(published.LEDGER_COLUMNS))
    table = published.compose(ledger, pa.array(list(contents), pa.string()))
    published.link_current(folder.uri, published.commit(folder.uri, start.number, table))
    start.close("done")
    return folder
