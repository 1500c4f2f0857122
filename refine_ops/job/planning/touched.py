"""Items whose inputs were touched, copied or synced anew, and still hold the same bytes: nothing is refined."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.config import AccessSettings
from refine_ops.errors import ItemError
from refine_ops.job.inputs import combined, input_uris
from refine_ops.job.ledger import read_ledger, write_part
from refine_ops.job.outcome import fingerprint_of
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.planning.remaining import NOWHERE, Positions, Remaining
from refine_ops.job.run_folder import RunFolder

_THREADS = 8
_CHUNK = 4096
_LATER_S = 1e-3
"""An outcome that is written again with its inputs' new identity is this much later than itself, whatever the clocks of
the machines say that wrote the two."""


def settle_touched(
    found: Remaining, plan: PlanReader, folder: RunFolder, access: AccessSettings, max_bytes: int
) -> Remaining:
    """What remains once the bytes of touched inputs were compared with those that were refined.

    Items whose bytes are the same count as what they were, done or held; their outcomes are recorded again with what
    the stores say now, so that the next start need not read them. It costs one read of the inputs, and no device time.
    """
    chunks = (found.touched[start : start + _CHUNK] for start in range(0, len(found.touched), _CHUNK))
    settled = [_settle(chunk, plan, folder, access, max_bytes) for chunk in chunks]
    done, held = (np.concatenate([NOWHERE, *positions]) for positions in zip((NOWHERE, NOWHERE), *settled, strict=True))
    return replace(
        found,
        positions=np.setdiff1d(found.positions, np.concatenate([done, held])),
        done=found.done + len(done),
        held=found.held + len(held),
        again=found.again - len(done),
        touched=NOWHERE,
    )


def _settle(
    positions: Positions, plan: PlanReader, folder: RunFolder, access: AccessSettings, max_bytes: int
) -> tuple[Positions, Positions]:
    """Those of `positions`, done and held, whose inputs hold the bytes that their outcomes were made of; their outcomes
    are renewed."""
    items = [plan.item(int(position)) for position in positions]
    ids = [item.item_id for item, _ in items]
    ledger = read_ledger(folder.outcomes, items=pa.array(ids, pa.string()))
    row_of = {item_id: row for row, item_id in enumerate(ledger["item_id"].to_pylist())}
    made, runs = ledger["fingerprint"].to_pylist(), ledger["run_fingerprint"].to_pylist()
    uris_of = [input_uris(item) for item, _ in items]
    read = _read_all(dict.fromkeys(uri for uris in uris_of for uri in uris), access, max_bytes)
    same, rows, identities = [], [], []
    for position, (item, request), uris in zip(positions.tolist(), items, uris_of, strict=True):
        found, row = {uri: read[uri] for uri in uris if uri in read}, row_of[item.item_id]
        hashes = {uri: digest for uri, (digest, _) in found.items()}
        if len(found) == len(uris) and fingerprint_of(runs[row], request, hashes) == made[row]:
            same.append(position)
            rows.append(row)
            identities.append(combined({uri: identity for uri, (_, identity) in found.items()}))
    if same:
        renewed = ledger.take(pa.array(rows))
        later = pc.add(renewed["finished_at"], _LATER_S)
        for name, values in (("identity", pa.array(identities, pa.string())), ("finished_at", later)):
            index = renewed.schema.get_field_index(name)
            renewed = renewed.set_column(index, renewed.schema.field(index), values)
        write_part(folder.outcomes, renewed, "same")
    held = np.array([ledger["status"][row].as_py() == "held" for row in rows], bool)
    return np.array(same, np.int64)[~held], np.array(same, np.int64)[held]


def _read_all(uris: Iterable[str], access: AccessSettings, max_bytes: int) -> dict[str, tuple[str, str]]:
    """SHA-256 and identity of every input, each read once; without those that cannot be read."""

    def read(uri: str) -> tuple[str, str] | None:
        try:
            storage.check_access(uri, access)
            data, identity = storage.read_identified(uri, max_bytes)
        except ItemError:
            return None
        return storage.sha256(data), identity

    with ThreadPoolExecutor(_THREADS) as pool:
        return {uri: found for uri, found in zip(uris, pool.map(read, uris), strict=True) if found is not None}
