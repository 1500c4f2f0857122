"""The flow `refine-batch`: validate -> plan -> refine -> summarise -> report."""

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

from prefect import flow, get_run_logger, task

from flows.drift_report import drift_report
from flows.fleet import cancel_lanes, run_on_pool
from flows.progress import ProgressDisplay, Ticker
from flows.summary import RunSummary, summarise
from refine_ops import adapters, storage
from refine_ops.config import RefineBatchConfig, RefineSettings
from refine_ops.errors import JobError, RefineError
from refine_ops.job import published
from refine_ops.job.launch import Node, NodeVerdict
from refine_ops.job.ledger import compact, outcomes_table, read_ledger, write_part
from refine_ops.job.planning.canary import judge_canary, sample_canary
from refine_ops.job.planning.plan import Plan, PlanReader, make_plan, problem_outcomes
from refine_ops.job.planning.remaining import Remaining, remaining
from refine_ops.job.run_folder import RunFolder, find_run, fingerprint_parts, open_run
from refine_ops.job.starts import Exit, Start, open_start
from refine_ops.model.fingerprint import fingerprint_model
from refine_ops.model.source import resolve_model
from refine_ops.report.config import DriftReportConfig
from refine_ops.report.review import read_review

logger = logging.getLogger(__name__)


class ErrorBudgetExceeded(RefineError):
    """More items are dead than the run may lose; everything that could be refined is refined and recorded."""


@flow(name="refine-batch", flow_run_name="refine {config.manifest}", on_cancellation=[cancel_lanes])
def refine_batch(config: RefineBatchConfig) -> RunSummary:
    """Refine every region of a manifest, and prove for every output that nothing else changed.

    The same run folder resumes: what is done is skipped, what is not is done.

    Raises:
        JobError: nothing could be run; the message says what to do.
        ErrorBudgetExceeded: the share of dead items is above `error_budget`.
    """
    config = config.model_copy(update={"refine": resolve_adapters(config.refine)})
    parts = parts_of(config.refine)
    folder = find_folder(config, parts)
    with Held(config, parts) as held:
        plan = plan_run(config, folder, held)
        folder = replace(folder, start=held.start.number)
        record_problems(folder, plan)
        todo = find_remaining(config, folder)
        if config.canary:
            refine_canary(config, folder, todo, held)
            todo = find_remaining(config, folder)
        verdict = refine_items(config, folder, todo)
        summary = write_summary(config, folder, plan, verdict, todo.done + todo.dead)
        if summary.dead_share > config.error_budget:
            held.exit = "budget"
        else:
            publish(folder, held)
        if due := due_report(config, folder, summary, refined=verdict is not None):
            drift_report(due)
        if summary.dead_share > config.error_budget:
            raise ErrorBudgetExceeded(_over_budget(summary, config))
        return summary


def _over_budget(summary: RunSummary, config: RefineBatchConfig) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.dead_by_reason.items())
    return (
        f"{summary.dead} of {summary.done + summary.dead} items are dead ({summary.dead_share:.1%}), the budget is "
        f"{config.error_budget:.1%}, so nothing new is published: {reasons}. Each one's message is in "
        f"{summary.summary}. What you mend is redone by the same command, retry_dead also tries again what has not "
        f"changed; --set error_budget={math.ceil(100 * summary.dead_share) / 100} publishes the {summary.done} that "
        "are done, without refining them again."
    )


class Held:
    """The run folder in this process's hands, from the moment a manifest is accepted to the end of the start.

    `exit` is how the start will be said to have ended; whatever is raised before it is set is a failure.
    """

    def __init__(self, config: RefineBatchConfig, parts: dict[str, str]) -> None:
        self._config, self._parts = config, parts
        self._start: Start | None = None
        self.exit: Exit = "failed"

    @property
    def start(self) -> Start:
        assert self._start is not None, "the manifest was accepted"
        return self._start

    def begin(self) -> None:
        """Create or reopen the run folder and open the next start.

        Raises:
            RunHeld: another process is at work there.
            JobError: the folder cannot be written, or holds a run with another fingerprint.
        """
        settings = self._config.model_dump(mode="json")
        folder = open_run(self._config.out, self._parts, settings)
        self._start = open_start(folder.uri, {"config": settings, "parts": self._parts})

    def __enter__(self) -> "Held":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._start is None:
            return
        stopped = kind is not None and not issubclass(kind, Exception)
        self._start.close("stopped" if stopped else self.exit, message="" if error is None else str(error))


def due_report(
    config: RefineBatchConfig, folder: RunFolder, summary: RunSummary, refined: bool
) -> DriftReportConfig | None:
    """The drift report: of the whole folder up to `report_items`, of this night alone in a folder that has grown
    larger, and none where nothing has changed since the last one, unless that found a broken promise."""
    if not summary.done or not config.report_items:
        return None
    whole, last = summary.done <= config.report_items, last_report(folder)
    violated = last is not None and last.violated
    known = not whole or (last is not None and (last.done, last.dead) == (summary.done, summary.dead))
    if not refined and known and not violated:
        logger.info("nothing was refined; the drift report stays as it is")
        return None
    if not whole and summary.refined_now > config.report_items:
        logger.warning(
            "%d items are too many for a drift report here (report_items %d): refine-ops report %s --nights 1",
            *(summary.refined_now, config.report_items, folder.uri),
        )
        return None
    return DriftReportConfig(runs=(folder.uri,), nights=None if whole else 1)


@dataclass(frozen=True, slots=True)
class LastReport:
    """What the drift report in a run folder says; a broken promise must not pass for mended by starting again."""

    done: int
    dead: int
    violated: bool


def last_report(folder: RunFolder) -> LastReport | None:
    """The folder's own report; None without one, or where it covers other runs too."""
    uri = storage.join(folder.uri, "report", "report.json")
    if not storage.exists(uri):
        return None
    summary = json.loads(storage.read(uri))
    if len(summary["runs"]) != 1:
        return None
    [run] = summary["runs"]
    return LastReport(run["done"], run["dead"], summary["verdict"]["state"] == "violated")


def resolve_adapters(settings: RefineSettings) -> RefineSettings:
    """Registry names such as `current` become the files they stand for now, so that a run keeps one adapter.

    A base model or library that is not the one an adapter was trained with is named in the log.
    """
    model = settings.model
    if not model.adapters or model.registry is None:
        return settings
    base = fingerprint_model(resolve_model(model.model_copy(update={"adapters": ()})), model)
    files = []
    for name in model.adapters:
        if Path(name).exists():
            files.append(name)
            continue
        found = adapters.resolve(name, model.registry)
        for difference in adapters.drift(adapters.show(model.registry, found.version).base, base):
            logger.warning("adapter %s: %s", found.version, difference)
        files.append(str(found.file))
    return settings.model_copy(update={"model": model.model_copy(update={"adapters": tuple(files)})})


def parts_of(settings: RefineSettings) -> dict[str, str]:
    """What the run's pixels depend on: the settings, the weights they name, and versions."""
    return fingerprint_parts(settings, fingerprint_model(resolve_model(settings.model), settings.model))


@task
def find_folder(config: RefineBatchConfig, parts: dict[str, str]) -> RunFolder:
    """The run folder, there already or not; refuses one of another fingerprint."""
    return find_run(config.out, parts)


@task
def plan_run(config: RefineBatchConfig, folder: RunFolder, held: Held) -> Plan:
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
        on_progress=Ticker("plan").update,
        any_suffix=config.refine.write.changes_suffixes,
        allow_empty=config.allow_empty,
        before_writing=held.begin,
    )
    get_run_logger().info(
        "%d items, %d regions, %d shards; %d rows cannot be refined",
        *(plan.items, plan.regions, plan.shards, len(plan.problems)),
    )
    return plan


@task
def record_problems(folder: RunFolder, plan: Plan) -> None:
    """Dead-letter the rows that cannot be refined."""
    known = read_ledger(folder.outcomes, ["request"])
    outcomes = problem_outcomes(plan.problems, known, folder.start)
    if outcomes:
        write_part(folder.outcomes, outcomes_table(outcomes), "plan")


@task
def find_remaining(config: RefineBatchConfig, folder: RunFolder) -> Remaining:
    """What of the plan has no outcome yet, by the ledger."""
    ledger = read_ledger(folder.outcomes, ["status", "request", "identity"])
    found = remaining(PlanReader(folder.plan), ledger, recheck=config.recheck, retry_dead=config.retry_dead)
    get_run_logger().info("%d to do, %d done, %d dead", len(found.positions), found.done, found.dead)
    return found


@task
def refine_canary(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, held: Held) -> None:
    """Refine a stratified sample first, on one node, and go on only if it passes the gates; what a refused canary
    refined counts for nothing."""
    assert config.canary
    sample = sample_canary(PlanReader(folder.plan), todo, config.canary)
    run_somewhere(config.model_copy(update={"lane_count": 1}), folder, sample, "canary")
    try:
        get_run_logger().info(judge_canary(folder.outcomes, PlanReader(folder.plan), sample, config.canary_gates))
    except JobError:
        held.start.void()
        held.exit = "canary"
        raise


@task
def refine_items(config: RefineBatchConfig, folder: RunFolder, todo: Remaining) -> NodeVerdict | None:
    """Refine what remains, on this node or on a work pool."""
    return run_somewhere(config, folder, todo, "refine") if len(todo.positions) else None


def run_somewhere(config: RefineBatchConfig, folder: RunFolder, todo: Remaining, label: str) -> NodeVerdict:
    """On the work pool, or here: one elastic launch after another, with progress, in the caller's (main) thread."""
    if config.lanes == "work-pool":
        return run_on_pool(config, folder, todo)
    display = ProgressDisplay(len(todo.positions), label)
    return Node(folder, config, processes_for(config), display.update).run(todo)


def processes_for(config: RefineBatchConfig) -> int:
    """Ranks on this node: as set, else one per GPU, else one."""
    import torch

    if config.worker.processes:
        return config.worker.processes
    on_cpu = config.refine.model.device == "cpu"
    return 1 if on_cpu else max(1, torch.cuda.device_count())


@task
def publish(folder: RunFolder, held: Held) -> None:
    """Commit what may be used from now on, and stand it in `current/` of a local run folder."""
    ledger = read_ledger(folder.outcomes, list(published.LEDGER_COLUMNS))
    planned = PlanReader(folder.plan).columns(["item_id"])["item_id"].combine_chunks()
    held.start.refuse_if_lost()
    snapshot = published.commit(folder.uri, folder.start, published.compose(ledger, planned))
    published.link_current(folder.uri, snapshot)
    held.exit = "done"


@task
def write_summary(
    config: RefineBatchConfig, folder: RunFolder, plan: Plan, verdict: NodeVerdict | None, skipped: int
) -> RunSummary:
    """Compact the ledger, derive the dead letter, write summary and contact sheet, publish artifacts."""
    compact(folder.outcomes)
    summary = summarise(folder, config, plan, verdict, skipped)
    if not storage.exists(folder.dead_letter):
        raise JobError(f"{folder.dead_letter} was not written; check the store")
    return summary
