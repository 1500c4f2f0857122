"""Flow `refine-batch`: the batch under Prefect, on this node or on a work pool."""

from prefect import flow

from flows.drift_report import drift_report
from flows.fleet import cancel_lanes, run_on_pool
from flows.prefect_engine import UNDER_PREFECT
from flows.steps.batch import run_batch
from flows.steps.summary import RunSummary
from refine_ops.config import RefineBatchConfig


@flow(name="refine-batch", flow_run_name="refine {config.manifest}", on_cancellation=[cancel_lanes])
def refine_batch(config: RefineBatchConfig) -> RunSummary:
    """Refine every region of a manifest, and prove for every output that nothing else changed.

    The same run folder resumes: what is done is skipped, what is not is done.

    Raises:
        JobError: nothing could be run; the message says what to do.
        ErrorBudgetExceeded: the share of dead items is above `error_budget`.
    """
    return run_batch(config, UNDER_PREFECT, on_pool=run_on_pool, report=drift_report)
