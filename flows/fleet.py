"""Many machines: child runs of `refine-shards` on a work pool, each with its own shards of one order.

The ledger alone says what is finished; states of child runs only say when to look. Nothing here holds a queue: Prefect
hands the child runs to its workers.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run as this_flow_run

from flows import child_runs
from flows.progress import ProgressDisplay
from flows.steps.engine import Engine
from refine_ops import storage
from refine_ops.config import RefineBatchConfig, RefineShardsConfig
from refine_ops.errors import ItemError, JobError
from refine_ops.job.launch import NodeVerdict
from refine_ops.job.planning.order import Order, OrderProgress, plan_digest, read_order, write_order
from refine_ops.job.planning.remaining import Remaining
from refine_ops.job.run_folder import RunFolder
from refine_ops.job.scratch import Counts
from refine_ops.progress import OnProgress

logger = logging.getLogger(__name__)

_POLL_S = 3.0
_LEDGER_EVERY_S = 30.0
_UNCLAIMED_S = 120.0
_FRUITLESS_CRASHES = 10
"""Crashes in a row without a single finished item, preemptions among them, before a lane's shards are given up."""


@dataclass(slots=True)
class Lane:
    """One child run and what it holds. `failures` and `crashes` count dispatches of these shards that came to nothing;
    `silent_since` is when the ledger last gained an item of theirs, by this process's monotonic clock."""

    flow_run: UUID
    shards: frozenset[int]
    left: int
    failures: int = 0
    crashes: int = 0
    silent_since: float = 0.0


def run_on_pool(
    config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
) -> NodeVerdict:
    """Refine `todo` through child runs and wait until the ledger has an outcome for every item.

    Children that an earlier parent of this run left behind are kept if they work on the same plan, and cancelled if
    not. Shards that a crashed or failed child leaves unfinished are dispatched again; a dispatch that finished items
    before it crashed (a preempted node) does not count.

    Raises:
        JobError: no such deployment, the Prefect server stays away, or shards remain unfinished after all attempts.
    """
    display = ProgressDisplay(label, elsewhere=engine.show_progress("refine-progress"))
    return _Fleet(config, folder, write_order(config, folder, todo), display.update).run()


def cancel_lanes(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Flow hook: cancelling `refine-batch` cancels its lanes. A parent that merely dies leaves them working."""
    try:
        run = storage.resolve(flow_run.parameters["config"]["out"])
    except (KeyError, TypeError, ItemError):
        return
    for child in child_runs.active(run):
        child_runs.cancel(child.id)


def deal(items: dict[int, int], lanes: int) -> list[frozenset[int]]:
    """Shards of at most `lanes` lanes: the largest first, each to the lane that has least. `items` is by shard."""
    shares: list[list[int]] = [[] for _ in range(min(lanes, len(items)))]
    loads = [0] * len(shares)
    for shard in sorted(items, key=lambda s: (-items[s], s)):
        lightest = loads.index(min(loads))
        shares[lightest].append(shard)
        loads[lightest] += items[shard]
    return [frozenset(share) for share in shares]


class _Fleet:
    def __init__(self, config: RefineBatchConfig, folder: RunFolder, order: Order, on_progress: OnProgress) -> None:
        self._config, self._folder, self._order, self._on_progress = config, folder, order, on_progress
        # Prefect answers a repeated key with the run that has it, ended or not. A parent that is retried keeps its own
        # run's id, and a canary and what follows it share one: neither may be given the other's lanes.
        self._start = uuid4().hex[:8]
        self._progress = OrderProgress(order, folder)
        self._lanes: list[Lane] = []
        self._given_up: dict[frozenset[int], str] = {}
        self._dispatched = self._crashed = 0
        self._started = self._looked = self._moved = time.monotonic()
        self._look_every_s = _LEDGER_EVERY_S
        self._silent_limit_s = 4 * config.worker.watchdog_s

    def run(self) -> NodeVerdict:
        self._look()
        self._adopt()
        taken = {shard for lane in self._lanes for shard in lane.shards}
        free = {shard: count for shard, count in self._progress.unfinished().items() if shard not in taken}
        for share in [] if self._late() else deal(free, self._config.lane_count):
            self._dispatch(share, self._order, failures=0, crashes=0)
        while self._lanes:
            time.sleep(_POLL_S)
            self._follow()
        if self._given_up:
            raise JobError(self._given_up_message())
        elapsed = time.monotonic() - self._started
        left = sum(self._progress.unfinished().values())
        return NodeVerdict(self._dispatched, self._crashed, self._counts(), elapsed, left)

    def _adopt(self) -> None:
        """Keep what an earlier parent started on the same plan; cancel what refers to another one."""
        digest = plan_digest(self._folder)
        for child in child_runs.active(self._folder.uri):
            shards = self._shards_of(child, digest)
            left = self._progress.unfinished(shards)
            cancelling = child.state is not None and child.state.is_cancelling()
            if left and not cancelling:
                logger.info("keeping lane %s of an earlier start: %d shards", child.name, len(left))
                self._lanes.append(Lane(child.id, frozenset(left), sum(left.values()), silent_since=time.monotonic()))
            elif not cancelling:
                child_runs.cancel(child.id)

    def _shards_of(self, child: FlowRun, digest: str) -> frozenset[int]:
        try:
            given = RefineShardsConfig.model_validate(child.parameters["config"])
            order = read_order(given.order, self._folder)
        except (KeyError, ValueError, JobError):
            return frozenset()
        taken = {shard for lane in self._lanes for shard in lane.shards}
        return frozenset(given.shards) - taken if order.plan == digest else frozenset()

    def _dispatch(self, shards: frozenset[int], order: Order, *, failures: int, crashes: int) -> None:
        self._dispatched += 1
        given = RefineShardsConfig(
            run=self._folder.uri, order=order.uri, shards=tuple(sorted(shards)), worker=self._config.worker
        )
        name = f"{len(shards)} shards from {min(shards)} on"
        flow_run = child_runs.create(given, name, key=f"{this_flow_run.id}-{self._start}-{self._dispatched}")
        left = sum(self._progress.unfinished(shards).values())
        self._lanes.append(Lane(flow_run, shards, left, failures, crashes, time.monotonic()))

    def _follow(self) -> None:
        """One look at the children's states, and at the ledger when one has ended or it is time."""
        states = child_runs.states([lane.flow_run for lane in self._lanes])
        ended = [lane for lane in self._lanes if (s := states.get(lane.flow_run)) is None or s.is_final()]
        if ended or time.monotonic() - self._looked >= self._look_every_s:
            self._look()
        waiting, self._lanes = self._lanes, []
        for lane in waiting:
            self._keep_or_replace(lane, lane in ended, states.get(lane.flow_run))
        if self._late():
            self._cancel_unbegun(states)
        self._warn_unclaimed(states)

    def _keep_or_replace(self, lane: Lane, ended: bool, state: State | None) -> None:
        """A lane with nothing left is forgotten; one that works is kept; one that has ended, or has been silent for too
        long, is replaced."""
        unfinished = self._progress.unfinished(lane.shards)
        left = sum(unfinished.values())
        fruitful = left < lane.left
        if fruitful:
            lane.left, lane.silent_since = left, time.monotonic()
            lane.crashes = 0
        if not left:
            return
        silent = time.monotonic() - lane.silent_since > self._silent_limit_s
        running = state is not None and state.is_running()
        if not ended and not (silent and running):
            self._lanes.append(lane)
            return
        if not ended:
            logger.warning("a lane has finished nothing for %.0f s; it is cancelled", self._silent_limit_s)
            child_runs.cancel(lane.flow_run)
        self._send_again(lane, frozenset(unfinished), state)

    def _late(self) -> bool:
        return self._config.until is not None and time.time() >= self._config.until

    def _cancel_unbegun(self, states: dict[UUID, State]) -> None:
        """After the deadline lanes at work end by themselves; those that nobody has taken up yet would do nothing."""
        waiting = [lane for lane in self._lanes if (s := states.get(lane.flow_run)) is None or s.is_scheduled()]
        for lane in waiting:
            child_runs.cancel(lane.flow_run)
        self._lanes = [lane for lane in self._lanes if lane not in waiting]

    def _send_again(self, lane: Lane, shards: frozenset[int], state: State | None) -> None:
        if self._late():
            return
        crashed = state is None or state.is_crashed() or state.is_running()
        self._crashed += crashed
        failures, crashes = lane.failures + (not crashed), lane.crashes + crashed
        reason = "vanished" if state is None else f"{state.name}: {state.message or 'no message'}"
        if failures >= self._config.lane_attempts or crashes >= _FRUITLESS_CRASHES:
            logger.error("%d shards are given up after a lane ended as %s", len(shards), reason)
            self._given_up[shards] = reason
            return
        logger.warning("a lane ended as %s; its %d unfinished shards are dispatched again", reason, len(shards))
        rest = self._progress.narrowed(shards, self._folder)
        self._dispatch(shards, rest, failures=failures, crashes=crashes)

    def _look(self) -> None:
        """Read new ledger parts; on a large ledger, seldom enough to spend a twentieth of the time on it."""
        started = time.monotonic()
        self._progress.refresh()
        self._looked = time.monotonic()
        self._look_every_s = max(_LEDGER_EVERY_S, 20 * (self._looked - started))
        counts = self._counts()
        self._on_progress(int(self._progress.finished.sum()), self._order.table.num_rows, counts.detail)

    def _counts(self) -> Counts:
        dead, held = int(self._progress.dead.sum()), int(self._progress.held.sum())
        return Counts(done=int(self._progress.finished.sum()) - dead - held, dead=dead, held=held)

    def _warn_unclaimed(self, states: dict[UUID, State]) -> None:
        if any(not state.is_scheduled() for state in states.values()) or not self._lanes:
            self._moved = time.monotonic()
        elif time.monotonic() - self._moved > _UNCLAIMED_S:
            self._moved = time.monotonic()
            logger.warning(
                "no worker has taken a lane for %.0f s; is one running? prefect worker start --pool refine-lanes",
                _UNCLAIMED_S,
            )

    def _given_up_message(self) -> str:
        items = sum(self._progress.unfinished().values())
        reasons = "\n".join(f"  shards {sorted(s)[:8]}: {why}" for s, why in self._given_up.items())
        return (
            f"{items} items have no outcome: their lanes failed {self._config.lane_attempts} times, or crashed "
            f"{_FRUITLESS_CRASHES} times without finishing one:\n{reasons}\n"
            "Everything else is done and recorded; mend the cause and run the same command again."
        )
