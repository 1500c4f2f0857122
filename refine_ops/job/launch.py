"""One node's share of a run: elastic launches until every item has an outcome, whoever dies on the way.

The verdict comes from the run folder, not from exit codes. After a rank dies, what was in flight is suspect and runs
alone, one item at a time; an item that kills its process `max_deaths` times alone is dead-lettered.
"""

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError
from refine_ops.job import outcome
from refine_ops.job.ledger import outcomes_table, read_parts, write_part
from refine_ops.job.planning.plan import PlanReader
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.ranks import RANK_MODULE, ElasticRanks, SoleRank
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Assignment, Counts, Spec, assignments_of
from refine_ops.progress import OnProgress, no_progress
from refine_ops.records import Outcome

logger = logging.getLogger(__name__)

Positions = npt.NDArray[np.int64]
"""Rows of the plan."""
_FRUITLESS_LAUNCHES = 3
"""Launches in a row that finish nothing and leave nobody to suspect, before the job gives up."""


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What a node did: launches made, ranks' deaths seen, counts of all launches, wall-clock seconds, and how many
    items the deadline left."""

    launches: int
    deaths: int
    counts: Counts
    elapsed_s: float
    left: int = 0

    def and_then(self, later: "NodeVerdict") -> "NodeVerdict":
        """Both together, one after the other."""
        return NodeVerdict(
            self.launches + later.launches,
            self.deaths + later.deaths,
            _one_after_another(self.counts, later.counts),
            self.elapsed_s + later.elapsed_s,
            self.left + later.left,
        )


class Node:
    """Runs the given positions of a plan on this machine.

    Args:
        module: What each rank runs.
        early: A rank that was started ahead of time, for the first launch if that is of one rank.
        examine: Called when a rank has died: raises `JobError` where it is the machine that is ill, so that no item is
            blamed for it.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RefineBatchConfig,
        processes: int,
        on_progress: OnProgress = no_progress,
        *,
        module: str = RANK_MODULE,
        early: SoleRank | None = None,
        examine: Callable[[], object] = lambda: None,
    ) -> None:
        self._folder, self._config, self._processes, self._on_progress = folder, config, processes, on_progress
        self._module, self._early, self._examine = module, early, examine
        self._plan = PlanReader(folder.plan)
        self._total, self._items = Counts(), 0
        self._launches = self._deaths = 0
        self._lost_attempts: Counter[int] = Counter()
        self._solo_deaths: Counter[int] = Counter()
        self._started = time.monotonic()

    def run(self, remaining: Remaining) -> NodeVerdict:
        """Bring every position to an outcome, or as many as the deadline allows.

        Raises:
            JobError: the run folder cannot be written, ranks die without ever taking up an item, or `examine` raises.
        """
        self._items = len(remaining.positions)
        todo, suspects, fruitless = remaining.positions, np.zeros(0, np.int64), 0
        while len(todo) and not self._late():
            solo = len(suspects) > 0
            code, finished, in_hand, log_tail = self._launch(suspects if solo else todo, solo)
            # A rank that died wrote its journal to the last moment, but perhaps not its last outcomes: what it had let
            # go without one is done again, what it had in hand is suspect.
            lost = np.setdiff1d(in_hand, finished)
            self._lost_attempts.update(lost.tolist())
            # Before anybody is blamed: a full disk or a broken GPU kills one item after another.
            if code:
                self._examine()
            if solo:
                finished = np.union1d(finished, self._dead_letter_killers(lost))
            todo = np.setdiff1d(todo, finished)
            # Alone, a suspect stays one until it has an outcome; in company, all that were in hand become suspects.
            suspects = np.setdiff1d(suspects, finished) if solo else np.intersect1d(lost, todo)
            if code:
                self._deaths += 1
                logger.warning("a rank died; %d items are suspect and run alone", len(suspects))
            # A launch that took something up got further: it names a suspect, and that ends by `max_deaths`.
            fruitless = 0 if len(finished) or len(lost) or self._late() else fruitless + 1
            if fruitless >= _FRUITLESS_LAUNCHES:
                raise JobError(f"ranks end before taking up any item; the end of their log:\n{log_tail}")
        return NodeVerdict(self._launches, self._deaths, self._total, time.monotonic() - self._started, len(todo))

    def _late(self) -> bool:
        return self._config.until is not None and time.time() >= self._config.until

    def _launch(self, positions: Positions, solo: bool) -> tuple[int, Positions, Positions, str]:
        """Run one group of ranks to its end: the exit code, the positions that have an outcome now, those that were in
        hand at the end, and the last lines of the log."""
        spec = self._spec(solo)
        lost = self._lost_attempts
        self._launches += 1
        # One rank for suspects, one item at a time: whatever is in hand when it dies is the culprit.
        with self._ranks(1 if solo else min(self._processes, len(positions))) as ranks:
            scratch = ranks.scratch
            scratch.assign(spec, assignments_of(Assignment(p, lost[p]) for p in positions.tolist()))
            # The ranks' own grace first: they flush what is done; then a few seconds for the agent to see them end.
            grace_s = self._config.worker.grace_s + 5.0
            code = ranks.wait(lambda: self._report(scratch.counts()), grace_s)
            self._total = _one_after_another(self._total, scratch.counts())
            self._report(Counts())
            if errors := scratch.errors():
                raise JobError(errors[0])
            in_hand = np.array(scratch.in_flight(), np.int64)
            return code, self._finished(positions, spec.writer), in_hand, scratch.log_tail()

    def _spec(self, solo: bool) -> Spec:
        config = self._config
        return Spec(
            run=self._folder.uri,
            fingerprint=self._folder.fingerprint,
            start=self._folder.start,
            refine=config.refine,
            worker=config.worker,
            access=config.access,
            keep_patches=config.keep_patches,
            held_output=config.held_output,
            solo=solo,
            # New for every launch: two launches of one start must not take each other's parts for their own.
            writer=uuid.uuid4().hex[:8],
            until=config.until,
        )

    def _ranks(self, processes: int) -> SoleRank | ElasticRanks:
        # Good for one launch only: a rank that was started early ends with it.
        early, self._early = self._early, None
        if processes > 1:
            return ElasticRanks(processes, self._module)
        return early or SoleRank(self._module)

    def _finished(self, positions: Positions, writer: str) -> Positions:
        """Which of `positions` have an outcome in this launch's own parts (a fleet's ledger has millions)."""
        parts = storage.list_files(self._folder.outcomes, ".parquet")
        tables = read_parts([uri for uri in parts if f"-{writer}-" in uri.rsplit("/", 1)[-1]], [])
        if not tables:
            return np.zeros(0, np.int64)
        recent = pa.concat_tables(tables.values())["item_id"].combine_chunks()
        ids = self._plan.columns(["item_id"])["item_id"].take(pa.array(positions))
        finished: Positions = positions[np.asarray(pc.is_in(ids, value_set=recent))]
        return finished

    def _dead_letter_killers(self, lost: Positions) -> Positions:
        """Count the deaths of items that ran alone, and dead-letter those with too many; returns their positions."""
        killers = []
        for position in lost.tolist():
            self._solo_deaths[position] += 1
            if self._solo_deaths[position] >= self._config.worker.max_deaths:
                killers.append(position)
        if killers:
            outcomes = [self._killed(position) for position in killers]
            # The launcher writes it: a rank that dies of an item cannot record that.
            write_part(self._folder.outcomes, outcomes_table(outcomes), "launcher")
        return np.array(killers, np.int64)

    def _killed(self, position: int) -> Outcome:
        item, request = self._plan.item(position)
        deaths = self._solo_deaths[position]
        logger.error("item %s killed its process %d times when run alone; it is dead-lettered", item.item_id, deaths)
        lost = self._lost_attempts[position]
        return outcome.killed(item, request, self._folder.fingerprint, self._folder.start, attempts=lost, alone=deaths)

    def _report(self, current: Counts) -> None:
        counts = _one_after_another(self._total, current)
        self._on_progress(counts.done + counts.held + counts.dead, self._items, _detail(counts))


def _detail(counts: Counts) -> str:
    """What a person who waits wants to know beside how many are done."""
    if counts.detail:
        return counts.detail
    if counts.done:
        return ""
    return f"model loaded in {counts.load_s:.1f} s" if counts.load_s else "loading the model"


def _one_after_another(first: Counts, second: Counts) -> Counts:
    """Both together: the first image came in the first of them that made one."""
    return Counts(
        done=first.done + second.done,
        dead=first.dead + second.dead,
        held=first.held + second.held,
        regions=first.regions + second.regions,
        model_s=first.model_s + second.model_s,
        load_s=max(first.load_s, second.load_s),
        first_image_s=first.first_image_s or second.first_image_s,
    )
