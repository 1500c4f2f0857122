"""Flow `refine-batch`: the batch under Prefect, on this node or on a work pool."""

from prefect import flow
from prefect.runtime import deployment

from flows.drift_report import drift_report
from flows.fleet import cancel_lanes, run_on_pool
from flows.prefect_engine import UNDER_PREFECT
from flows.steps.batch import run_batch
from flows.steps.summary import RunSummary
from refine_ops.config import RefineBatchConfig
from refine_ops.errors import JobError


@flow(name="refine-batch", flow_run_name="refine {config.manifest}", on_cancellation=[cancel_lanes])
def refine_batch(config: RefineBatchConfig) -> RunSummary:
    """Refine every region of a manifest, and prove for every output that nothing else changed.

    The same run folder resumes: what is done is skipped, what is not is done.

    Raises:
        JobError: it could not go on; the message says what to do.
        BudgetExceeded: the share of dead items is above `error_budget`, or that of held ones above `hold_budget`.
    """
    refuse_tiny(config, deployed=deployment.id is not None)
    return run_batch(config, UNDER_PREFECT, on_pool=run_on_pool, report=drift_report)


def refuse_tiny(config: RefineBatchConfig, deployed: bool) -> None:
    """`tiny` is what a config names that names no model: right for a first look, wrong for a catalogue every night.

    Raises:
        JobError: a deployment would run it.
    """
    if deployed and config.refine.model.model == "tiny" and not config.allow_tiny:
        raise JobError(
            "this deployment names no model, or 'tiny', which only shows how the package works: set "
            "refine.model.model (refineanything-2511-lightning-8, say), or allow_tiny: true"
        )
