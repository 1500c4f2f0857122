"""Flow `refine-eval`: RefineEval for any number of methods, with its tables as artifacts."""

import logging
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from flows.progress import Ticker
from refine_ops import storage
from refine_ops.eval.cases.build import build_cases
from refine_ops.eval.cases.case_set import CaseSet
from refine_ops.eval.compare import Comparison, compare
from refine_ops.eval.config import BuildCasesConfig, RefineEvalConfig, VaeCropConfig
from refine_ops.eval.run import Evaluation, evaluate, open_cases
from refine_ops.eval.tables.render import as_markdown
from refine_ops.eval.vae_crop import vae_crop

__all__ = ["BuildCasesConfig", "Comparison", "VaeCropConfig", "build_cases", "compare", "refine_eval", "vae_crop"]

logger = logging.getLogger(__name__)


@flow(name="refine-eval")
def refine_eval(config: RefineEvalConfig) -> str:
    """Evaluate all methods on all cases; returns the URI of the results folder. The same folder continues."""
    cases = prepare(config)
    evaluation = measure(config)
    publish(evaluation, cases)
    logger.info("results at %s", evaluation.uri)
    return evaluation.uri


@task(persist_result=False)
def prepare(config: RefineEvalConfig) -> CaseSet:
    """Build RefineEval-mini where it is asked for, and check that the case set can be read."""
    return open_cases(config)


@task(persist_result=False)
def measure(config: RefineEvalConfig) -> Evaluation:
    """Run and measure every method, showing how far it is; an update costs 14 ms, so one a case."""
    created = create_progress_artifact(0.0, key="refine-eval-progress", description="refine-eval")
    names, ticker = [m.name for m in config.all_methods], Ticker("eval", "cases")

    def show(done: int, total: int | None) -> None:
        method = names[(done - 1) * len(names) // (total or done)]
        ticker.update(done, total, method)
        if isinstance(created, UUID):
            share = done / (total or done)
            update_progress_artifact(created, 100 * share, description=f"{method}: case {done} of {total}")

    return evaluate(config, show)


@task(persist_result=False)
def publish(evaluation: Evaluation, cases: CaseSet) -> None:
    """One Markdown artifact with all tables and where the files are."""
    gallery = storage.join(evaluation.uri, "gallery", "index.html")
    head = f"Case set `{cases.digest[:12]}` at `{cases.uri}`. Results: `{evaluation.uri}`. Gallery: `{gallery}`.\n\n"
    create_markdown_artifact(key="refine-eval", markdown=head + as_markdown(evaluation.tables))
