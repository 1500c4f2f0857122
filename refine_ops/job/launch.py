"""One node's share of a run: elastic launches until every item has an outcome, whoever dies on the way.

The verdict comes from the run folder, not from exit codes. After a rank dies, what was in flight is suspect and runs
alone, one item at a time; an item that kills its process `max_deaths` times alone is dead-lettered.
"""

import logging
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError
from refine_ops.job import outcome
from refine_ops.job.elastic import run_elastic
from refine_ops.job.ledger import outcomes_table, read_parts, write_part
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Progress, Scratch, Spec, assignments_of
from refine_ops.records import Outcome

logger = logging.getLogger(__name__)

_FRUITLESS_LAUNCHES = 3
"""Launches in a row that finish nothing and leave nobody to suspect, before the job gives up."""

OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What a node did: launches made, ranks' deaths seen, counters of all launches, wall-clock seconds."""

    launches: int
    deaths: int
    progress: Progress
    elapsed_s: float


class Node:
    """Runs the given positions of a plan on this machine; `module` is what each rank runs."""

    def __init__(
        self,
        folder: RunFolder,
        config: RefineBatchConfig,
        processes: int,
        on_progress: OnProgress | None = None,
        module: str = "refine_ops.job.rank.worker",
    ) -> None:
        self._module = module
        self._folder, self._config, self._processes, self._on_progress = folder, config, processes, on_progress
        self._plan = PlanReader(folder.plan)
        self._total = Progress()
        self._launches = self._deaths = 0
        self._lost_attempts: Counter[int] = Counter()
        self._solo_deaths: Counter[int] = Counter()
        self._started = time.monotonic()

    def run(self, remaining: Remaining) -> NodeVerdict:
        """Bring every position to an outcome.

        Raises:
            JobError: the run folder cannot be written, or ranks die without ever taking up an item.
        """
        todo, suspects, fruitless = remaining.positions, np.zeros(0, np.int64), 0
        with tempfile.TemporaryDirectory(prefix="refine-ops-") as scratch_root:
            while len(todo):
                solo = len(suspects) > 0
                work = suspects if solo else todo
                scratch = Scratch(Path(scratch_root) / f"launch-{self._launches}")
                code, finished = self._launch(scratch, work, solo)
                # A rank that died wrote its journal to the last moment, but perhaps not its last outcomes: what it had
                # let go without one is done again, what it had in hand is suspect.
                lost = np.setdiff1d(np.array(scratch.in_flight(), np.int64), finished)
                self._lost_attempts.update(lost.tolist())
                if solo:
                    finished = np.union1d(finished, self._dead_letter_killers(lost))
                todo = np.setdiff1d(todo, finished)
                # Alone, a suspect stays one until it has an outcome; in company, all that were in hand become suspects.
                suspects = np.setdiff1d(suspects, finished) if solo else np.intersect1d(lost, todo)
                if code:
                    self._deaths += 1
                    logger.warning("a rank died; %d items are suspect and run alone", len(suspects))
                # A launch that took something up got further: it names a suspect, and that ends by `max_deaths`.
                fruitless = 0 if len(finished) or len(lost) else fruitless + 1
                if fruitless >= _FRUITLESS_LAUNCHES:
                    raise JobError(f"ranks end before taking up any item; the end of their log:\n{scratch.log_tail()}")
        return NodeVerdict(self._launches, self._deaths, self._total, time.monotonic() - self._started)

    def _launch(
        self, scratch: Scratch, positions: npt.NDArray[np.int64], solo: bool
    ) -> tuple[int, npt.NDArray[np.int64]]:
        """Run one group of ranks to its end; the exit code and the positions that have an outcome now."""
        config = self._config
        spec = Spec(
            *(self._folder.uri, self._folder.fingerprint, self._folder.start),
            *(config.refine, config.worker, config.access),
            keep_patches=config.keep_patches,
            solo=solo,
            writer=uuid.uuid4().hex[:8],
        )
        lost = self._lost_attempts
        scratch.assign(spec, assignments_of(Assignment(p, lost[p]) for p in positions.tolist()))
        self._launches += 1
        code = run_elastic(
            self._module,
            ["--scratch", str(scratch.path)],
            processes=1 if solo else min(self._processes, len(positions)),
            log=scratch.log,
            on_tick=lambda: self._report(scratch.progress()),
            grace_s=config.worker.grace_s + 5.0,
        )
        self._total = self._added(scratch.progress())
        self._report(Progress())
        if errors := scratch.errors():
            raise JobError(errors[0])
        return code, self._finished(positions, spec.writer)

    def _finished(self, positions: npt.NDArray[np.int64], writer: str) -> npt.NDArray[np.int64]:
        """Which of `positions` have an outcome in this launch's own parts (a fleet's ledger has millions)."""
        parts = storage.list_files(self._folder.outcomes, ".parquet")
        tables = read_parts([uri for uri in parts if f"-{writer}-" in uri.rsplit("/", 1)[-1]], [])
        if not tables:
            return np.zeros(0, np.int64)
        recent = pa.concat_tables(tables.values())["item_id"].combine_chunks()
        ids = self._plan.columns(["item_id"])["item_id"].take(pa.array(positions))
        finished: npt.NDArray[np.int64] = positions[np.asarray(pc.is_in(ids, value_set=recent))]
        return finished

    def _dead_letter_killers(self, lost: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Count the deaths of items that ran alone, and dead-letter those with too many; returns their positions."""
        killers = []
        for position in lost.tolist():
            self._solo_deaths[position] += 1
            if self._solo_deaths[position] >= self._config.worker.max_deaths:
                killers.append(position)
        if killers:
            outcomes = [self._killed(position) for position in killers]
            write_part(self._folder.outcomes, outcomes_table(outcomes), "launcher")
        return np.array(killers, np.int64)

    def _killed(self, position: int) -> Outcome:
        item, request = self._plan.item(position)
        deaths = self._solo_deaths[position]
        logger.error("item %s killed its process %d times when run alone; it is dead-lettered", item.item_id, deaths)
        return outcome.killed(item, request, self._folder.start, attempts=self._lost_attempts[position], alone=deaths)

    def _report(self, current: Progress) -> None:
        if self._on_progress:
            self._on_progress(self._added(current))

    def _added(self, current: Progress) -> Progress:
        total = self._total
        return Progress(
            done=total.done + current.done,
            dead=total.dead + current.dead,
            regions=total.regions + current.regions,
            model_s=total.model_s + current.model_s,
            load_s=max(total.load_s, current.load_s),
            first_image_s=total.first_image_s or current.first_image_s,
        )
