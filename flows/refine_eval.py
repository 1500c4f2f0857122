"""Flow `refine-eval`: RefineEval for any number of methods, with its tables as artifacts."""

import logging

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.prefect_engine import UNDER_PREFECT, step
from flows.progress import ProgressDisplay
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


@step
def prepare(config: RefineEvalConfig) -> CaseSet:
    """Build RefineEval-mini where it is asked for, and check that the case set can be read."""
    return open_cases(config)


@step
def measure(config: RefineEvalConfig) -> Evaluation:
    """Run and measure every method, showing how many cases are done."""
    names = [m.name for m in config.all_methods]
    display = ProgressDisplay("eval", "cases", elsewhere=UNDER_PREFECT.show_progress("refine-eval-progress"))

    def show(done: int, total: int | None = None, detail: str = "") -> None:
        display.update(done, total, names[(done - 1) * len(names) // (total or done)])

    return evaluate(config, show)


@step
def publish(evaluation: Evaluation, cases: CaseSet) -> None:
    """One Markdown artifact with all tables and where the files are."""
    gallery = storage.join(evaluation.uri, "gallery", "index.html")
    head = f"Case set `{cases.digest[:12]}` at `{cases.uri}`. Results: `{evaluation.uri}`. Gallery: `{gallery}`.\n\n"
    create_markdown_artifact(key="refine-eval", markdown=head + as_markdown(evaluation.tables))
