"""refine-batch: validate -> plan -> refine -> summarise -> report."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.progress import ProgressDisplay
from flows.steps.drift import report_drift
from flows.steps.engine import IN_PROCESS, Engine
from flows.steps.report_due import due_report
from flows.steps.run_start import RunStart
from flows.steps.summary import RunSummary, device_seconds, summarise
from flows.steps.weights import examine_gpu, parts_of, processes_for, require_gpu, resolve_adapters
from refine_ops import storage
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError, RefineError, Unacceptable
from refine_ops.job import published
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.ledger import compact, outcomes_table, parts_kept, read_history, read_ledger, write_part
from refine_ops.job.planning.canary import check_canary, sample_canary
from refine_ops.job.planning.known import read_known
from refine_ops.job.planning.plan import Plan, PlanReader, make_plan, problem_outcomes
from refine_ops.job.planning.remaining import Remaining, remaining
from refine_ops.job.planning.touched import settle_touched
from refine_ops.job.ranks import SoleRank
from refine_ops.job.run_folder import RunFolder, find_run
from refine_ops.judge.judge import open_judge, said_without_gate
from refine_ops.provenance.rehearsal import check_signer
from refine_ops.report.config import DriftReportConfig
from refine_ops.report.review import approve_held, read_review

logger = logging.getLogger(__name__)

_GUARDED_FROM = 20
"""Published items from which on a shrunken manifest is refused, and tried ones from which on the share that is held
counts: a handful is looked through at a glance."""


class BudgetExceeded(Unacceptable):
    """Of this start's items more are dead or held than it may have; everything that could be refined is refined and
    recorded, and nothing new is published."""


class ErrorBudgetExceeded(BudgetExceeded):
    """More items are dead than `error_budget` allows."""


class HoldBudgetExceeded(BudgetExceeded):
    """More items are held than `hold_budget` allows."""


class Refine(Protocol):
    """Brings every remaining item to an outcome; `label` is what progress is shown as."""

    def __call__(
        self, config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
    ) -> NodeVerdict: ...


def run_batch(
    config: RefineBatchConfig,
    engine: Engine = IN_PROCESS,
    *,
    on_pool: Refine | None = None,
    report: Callable[[DriftReportConfig], str] = report_drift,
) -> RunSummary:
    """Refine every region of a manifest, and prove for every output that nothing else changed.

    The same run folder resumes: what is done is skipped, what is not is done. Call it from the main thread.

    Args:
        on_pool: What `lanes: work-pool` runs on.
        report: What builds the drift report at the end.

    Raises:
        JobError: it could not go on; the message says what to do.
        BudgetExceeded: of this start's items more are dead than `error_budget`, or held than `hold_budget` allows.
    """
    if config.lanes == "work-pool" and on_pool is None:
        raise JobError("lanes: work-pool needs a Prefect server and its work pool; start the flow refine-batch there")
    with ExitStack() as stack:
        stack.enter_context(parts_kept())
        until = config.until if config.deadline_h is None else time.time() + 3600 * config.deadline_h
        config = config.model_copy(update={"refine": resolve_adapters(config.refine), "until": until})
        refine = (on_pool if config.lanes == "work-pool" else None) or _Here(config, stack)
        parts = parts_of(config.refine)
        judge = open_judge(config.refine, rules_only=True)
        if told := said_without_gate(config.refine, judge):
            logger.warning(told)
        folder = engine.step(find_folder)(config, parts)
        opened = stack.enter_context(RunStart(config, parts, judge.promises if judge else {}))
        plan = engine.step(plan_run)(config, folder, opened, engine)
        folder = replace(folder, start=opened.start.number)
        refuse_shrinkage(config, folder, plan)
        engine.step(record_problems)(folder, plan)
        engine.step(take_approvals)(folder, engine)
        todo = engine.step(find_remaining)(config, folder, engine)
        refuse_mass_redo(config, todo)
        skipped, verdict = todo.done + todo.held + todo.dead, None
        if config.canary and len(todo.positions):
            sample = sample_canary(PlanReader(folder.plan), todo, config.canary)
            verdict = engine.step(refine_canary)(config, folder, sample, opened, refine, engine)
            todo = without(todo, sample)
        if len(todo.positions):
            rest = engine.step(refine_items)(config, folder, todo, refine, engine)
            verdict = verdict.and_then(rest) if verdict else rest
        summary = engine.step(write_summary)(config, folder, plan, verdict, skipped, engine)
        opened.counts = _counts_of(summary)
        over_budget = _over_budget(summary, config)
        if over_budget:
            opened.exit = "budget"
        else:
            engine.step(publish)(config, folder, opened, summary.left)
        try:
            if due := due_report(config, folder, summary, refined=verdict is not None):
                report(due)
        except Unacceptable as e:
            if not over_budget:
                raise
            logger.warning("%s", e)  # the budget is the graver one, and both end with 1
        if over_budget:
            raise over_budget
        return summary


def _over_budget(summary: RunSummary, config: RefineBatchConfig) -> BudgetExceeded | None:
    look = f"Each one's message is in {summary.summary}."
    accept = (
        f" Once you have looked: the same command publishes the {summary.done} that are done, nothing is refined twice."
        if summary.done
        else ""
    )
    if summary.dead_share > config.error_budget:
        return ErrorBudgetExceeded(
            f"{summary.dead_now} of {summary.tried_now} items of this start are dead "
            f"({summary.dead_share:.1%}), the budget is {config.error_budget:.1%}, so nothing new is published: "
            f"{_counts(summary.dead_by_reason)}. {look} What you mend is redone by the same command, retry_dead also "
            f"tries again what has not changed.{accept}"
        )
    if summary.tried_now >= _GUARDED_FROM and summary.held_share > config.hold_budget:
        return HoldBudgetExceeded(
            f"{summary.held_now} of {summary.tried_now} items of this start are held ({summary.held_share:.1%}), the "
            f"budget is {config.hold_budget:.1%}, so nothing new is published: {_counts(summary.held_by_reason)}. "
            f"{look} Is it the right model, with the right references? What you approve in the report is "
            f"published as it is kept.{accept}"
        )
    return None


def _counts_of(summary: RunSummary) -> dict[str, float]:
    """What the end of a start says of it."""
    now = {"done": summary.done_now, "held": summary.held_now, "dead": summary.dead_now, "left": summary.left}
    return {**now, "skipped": summary.skipped, "device_s": summary.device_s}


def _counts(by_reason: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in by_reason.items())


class _Here:
    """Refines on this node, in one launch after another. Where one rank does it and the run folder is new, that rank is
    started at once: it imports for seconds, while the plan is made."""

    def __init__(self, config: RefineBatchConfig, stack: ExitStack) -> None:
        require_gpu(config.refine.model)
        check_signer(config.refine.provenance)
        self._processes = processes_for(config)
        self._early: SoleRank | None = None
        if self._processes == 1 and _is_new(config.out):
            self._early = stack.enter_context(SoleRank())

    def __call__(
        self, config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str, engine: Engine
    ) -> NodeVerdict:
        display = ProgressDisplay(label, elsewhere=engine.show_progress("refine-progress"))
        early, self._early = self._early, None
        examine = partial(examine_gpu, config.refine.model)
        return Node(folder, config, self._processes, display.update, early=early, examine=examine).run(todo)


def _is_new(out: str) -> bool:
    """Whether the run folder holds no run yet; in an old one there may be nothing to do."""
    try:
        return not storage.exists(storage.join(storage.resolve(out), "run.json"))
    except RefineError:
        return False  # `find_folder` says what is wrong with it


def find_folder(config: RefineBatchConfig, parts: dict[str, str]) -> RunFolder:
    """The run folder, there already or not; refuses one of another fingerprint unless it is told what to do then."""
    return find_run(config.out, parts, config.on_new_fingerprint)


def plan_run(config: RefineBatchConfig, folder: RunFolder, opened: RunStart, engine: Engine) -> Plan:
    """Validate the manifest, open the run, and write the plan.

    A manifest that is refused leaves no folder behind whose settings the next start would have to repeat.
    """
    plan = make_plan(
        config.manifest,
        folder.uri,
        access=config.access,
        limit=config.limit,
        shard_items=config.shard_items,
        review=read_review(folder.uri),
        on_progress=ProgressDisplay("plan").update,
        any_suffix=config.refine.write.changes_suffixes,
        allow_empty=config.allow_empty,
        before_writing=opened.begin,
    )
    engine.note(
        f"{plan.items} items, {plan.regions} regions, {plan.shards} shards; {len(plan.problems)} rows cannot be refined"
    )
    return plan


def refuse_shrinkage(config: RefineBatchConfig, folder: RunFolder, plan: Plan) -> None:
    """A manifest that has lost much of what is published is more often a broken export than a wish.

    Raises:
        JobError: more would be removed than `max_removed` allows; nothing was refined, nothing changes.
    """
    before = published.newest(folder.uri)
    if before is None or before.table.num_rows < _GUARDED_FROM or config.limit is not None:
        return
    named = pa.concat_arrays([_planned(folder), pa.array([p.item_id for p in plan.problems], pa.string())])
    gone = before.table.num_rows - int(pc.sum(pc.is_in(before.table["item_id"], value_set=named)).as_py())
    share = gone / before.table.num_rows
    if share > config.max_removed:
        raise JobError(
            f"{config.manifest} no longer names {gone} of {before.table.num_rows} published items ({share:.1%}), more "
            f"than max_removed {config.max_removed:.1%}; nothing was run and all stays published. If they are to go: "
            f"--set max_removed={math.ceil(100 * share) / 100}"
        )


def refuse_mass_redo(config: RefineBatchConfig, todo: Remaining) -> None:
    """What is done is done again when its row or its inputs are others. Where that is so of very much, it is more often
    a column that was rewritten, or a bucket that was filled anew, than a wish.

    Raises:
        JobError: more would be done again than `max_redone` allows; nothing was refined, nothing changes.
    """
    known = todo.done + todo.again
    if known >= _GUARDED_FROM and todo.again > config.max_redone * known:
        share = todo.again / known
        raise JobError(
            f"{todo.again} of {known} items that are done would be refined again ({share:.1%}), more than max_redone "
            f"{config.max_redone:.1%}: their rows ask for something else, their inputs hold other bytes, or "
            f"on_new_fingerprint is redo (max_new bounds it). Nothing was run. If they are to be: "
            f"--set max_redone={math.ceil(100 * share) / 100}"
        )


def record_problems(folder: RunFolder, plan: Plan) -> None:
    """Dead-letter the rows that cannot be refined."""
    if not plan.problems:
        return
    known = read_ledger(folder.outcomes, ["request"])
    if outcomes := problem_outcomes(plan.problems, known, folder.start):
        write_part(folder.outcomes, outcomes_table(outcomes), "plan")


def take_approvals(folder: RunFolder, engine: Engine) -> None:
    """What is held and a person approved meanwhile is done."""
    if count := approve_held(folder):
        engine.note(f"{count} held items were approved and are done")


def find_remaining(config: RefineBatchConfig, folder: RunFolder, engine: Engine) -> Remaining:
    """What of the plan has no outcome yet, by the ledger."""
    plan = PlanReader(folder.plan)
    found = remaining(
        plan,
        read_known(folder.outcomes, plan),
        recheck=config.recheck,
        retry_dead=config.retry_dead,
        fingerprint=folder.fingerprint,
        max_older=config.max_new if config.on_new_fingerprint == "redo" else 0,
    )
    if len(found.touched):
        limits = config.refine.limits
        found = settle_touched(found, plan, folder, config.access, limits.max_bytes)
    older = f", {found.older} of them under an earlier fingerprint" if found.older else ""
    engine.note(f"{len(found.positions)} to do, {found.done} done{older}, {found.held} held, {found.dead} dead")
    return found


def refine_canary(
    config: RefineBatchConfig, folder: RunFolder, sample: Remaining, opened: RunStart, refine: Refine, engine: Engine
) -> NodeVerdict:
    """Refine a stratified sample first, on one node, and go on only if it passes; what a refused canary refined counts
    for nothing."""
    verdict = refine(config.model_copy(update={"lane_count": 1, "until": None}), folder, sample, "canary", engine)
    try:
        engine.note(check_canary(folder, PlanReader(folder.plan), sample, config.canary_limits))
    except JobError:
        spent = read_ledger(folder.outcomes, ["timings_s"], start=folder.start)
        opened.counts = {"device_s": device_seconds(spent, folder.start)}
        opened.start.void()
        opened.exit = "canary"
        raise
    return verdict


def without(todo: Remaining, sample: Remaining) -> Remaining:
    """What remains once the sample, a part of it, has its outcomes."""
    return replace(todo, positions=np.setdiff1d(todo.positions, sample.positions))


def refine_items(
    config: RefineBatchConfig, folder: RunFolder, todo: Remaining, refine: Refine, engine: Engine
) -> NodeVerdict:
    """Refine what remains, on this node or on a work pool."""
    return refine(config, folder, todo, "refine", engine)


def publish(config: RefineBatchConfig, folder: RunFolder, opened: RunStart, left: int) -> None:
    """Commit what may be used from now on, and stand it in `current/` of a local run folder. A start that was limited
    to the first items leaves the others as they are."""
    ledger = read_ledger(folder.outcomes, list(published.LEDGER_COLUMNS))
    planned, before = _planned(folder), published.newest(folder.uri)
    if config.limit is not None and before is not None:
        planned = pa.concat_arrays([planned, before.table["item_id"].combine_chunks()])
    stays = None if before is None else _staying(folder, ledger, before.table)
    opened.start.refuse_if_lost()
    snapshot = published.commit(folder.uri, folder.start, published.compose(ledger, planned, stays))
    published.link_current(folder.uri, snapshot)
    opened.exit = "deadline" if left else "done"


def _staying(folder: RunFolder, ledger: pa.Table, before: pa.Table) -> pa.Table:
    """What of the snapshot before still stands for items that are held now."""
    held = ledger.filter(pc.equal(ledger["status"], "held"))
    shown = before.filter(pc.is_in(before["item_id"], value_set=held["item_id"].combine_chunks()))
    if not shown.num_rows:
        return shown
    asked = ["source_sha256", "request"]
    history = read_history(folder.outcomes, shown["item_id"].combine_chunks(), ["object", *asked, "regions"])
    done = history.filter(pc.equal(history["status"], "done"))
    now = read_ledger(folder.outcomes, asked)
    return published.staying(shown, now, done)


def _planned(folder: RunFolder) -> pa.Array:
    return PlanReader(folder.plan).columns(["item_id"])["item_id"].combine_chunks()


def write_summary(
    config: RefineBatchConfig,
    folder: RunFolder,
    plan: Plan,
    verdict: NodeVerdict | None,
    skipped: int,
    engine: Engine,
) -> RunSummary:
    """Compact the ledger, derive the dead letter, write and show summary and contact sheet."""
    compact(folder.outcomes)
    summary = summarise(folder, config, plan, verdict, skipped, engine)
    if not storage.exists(folder.dead_letter):
        raise JobError(f"{folder.dead_letter} was not written; check the store")
    return summary
