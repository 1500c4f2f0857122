"""The flow `refine-shards`: one lane of a run on many machines. Started by `refine-batch`, not by people."""

from functools import partial

from prefect import flow, get_run_logger

from flows.steps.weights import examine_gpu, parts_of, processes_for, require_gpu
from refine_ops.config import RefineShardsConfig
from refine_ops.job.launch import Node
from refine_ops.job.planning.order import read_order, share_of
from refine_ops.job.run_folder import find_start, reopen_run
from refine_ops.provenance.rehearsal import check_signer


@flow(name="refine-shards")
def refine_shards(config: RefineShardsConfig) -> int:
    """Refine what the order holds of these shards, on this node; returns how many items now have an outcome.

    Raises:
        JobError: no such run or order, no GPU where one is needed or was, nobody who can sign what is to be signed, or
            this machine's packages and weights would make other pixels than the run's.
    """
    run, _ = reopen_run(config.run)
    order = read_order(config.order, run)
    settings = order.config.model_copy(update={"out": run.uri, "worker": config.worker or order.config.worker})
    folder = find_start(run.uri, order.start, parts_of(settings.refine))
    todo = share_of(order, config.shards)
    logger = get_run_logger()
    logger.info("%d items to do in %d shards", len(todo.positions), len(config.shards))
    model = settings.refine.model
    require_gpu(model)
    check_signer(settings.refine.provenance)
    verdict = Node(folder, settings, processes_for(settings), examine=partial(examine_gpu, model)).run(todo)
    found = verdict.counts
    logger.info(
        "%d refined, %d held, %d dead, %d rank deaths, %.1f s",
        *(found.done, found.held, found.dead, verdict.deaths, verdict.elapsed_s),
    )
    return len(todo.positions)
