"""One rank of a training, run under torch's elastic launch: `python -m refine_ops.train.worker RUN/job.json`."""

import gc
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from refine_ops import storage
from refine_ops.adapters import WEIGHTS_NAME
from refine_ops.errors import EXIT_DRAINED, EXIT_JOB_ERROR, JobError
from refine_ops.job.child import die_with_parent
from refine_ops.model.load import model_dtype
from refine_ops.model.source import ResolvedModel, resolve_model
from refine_ops.train import run_folder
from refine_ops.train.adapter import adapter_bytes, trained_as
from refine_ops.train.config import TrainLoraConfig
from refine_ops.train.denoiser import Denoiser
from refine_ops.train.observe import Observation
from refine_ops.train.samples.batches import BatchSpec, TrainingBatches, drawable
from refine_ops.train.samples.cache import EncodedCache
from refine_ops.train.samples.dataset import TrainingSample, as_sample
from refine_ops.train.samples.draws import DrawOrder
from refine_ops.train.samples.encode import Planned, SampleEncoder, crops_to_encode
from refine_ops.train.samples.encoders import Trainee, encoding_identity, load_encoders, load_trainee
from refine_ops.train.shard import join_group, shard
from refine_ops.train.trainer import Stopped, Trainer, Training

logger = logging.getLogger(__name__)

FAILURE: Final = "failure.json"
RESULT: Final = "result.json"


@dataclass(frozen=True, slots=True)
class _Rank:
    """What every phase needs to know."""

    config: TrainLoraConfig
    fingerprint: dict[str, str]
    model: ResolvedModel
    run: Path
    accelerator: Any
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where this rank works; accelerate's `cpu:0`, under which diffusers' loader makes no parameters, is `cpu`."""
        device: torch.device = self.accelerator.device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def cache_folder(self) -> Path:
        return Path(self.config.cache) if self.config.cache else self.run / "cache"

    @property
    def sparse_share(self) -> float:
        if self.config.targets == "mixed":
            return 0.5
        return 1.0 if self.model.preset.targets == "sparse" else 0.0


def main() -> None:
    die_with_parent()
    job = json.loads(Path(sys.argv[1]).read_text())
    config = TrainLoraConfig.model_validate(job["config"])
    run = Path(config.out)
    try:
        run_rank(config, job["fingerprint"], run, [as_sample(row) for row in job["samples"]])
    except JobError as error:
        logger.error("%s", error)
        storage.write(str(run / FAILURE), json.dumps({"message": str(error)}).encode())
        sys.exit(EXIT_DRAINED if isinstance(error, Stopped) else EXIT_JOB_ERROR)


def run_rank(
    config: TrainLoraConfig, fingerprint: dict[str, str], run: Path, samples: Sequence[TrainingSample]
) -> None:
    """Encode, train, and write the adapter, as one of the process group's ranks."""
    accelerator = join_group(config, run)
    _log_to_stderr(accelerator.process_index)
    rank = _Rank(
        config,
        fingerprint,
        resolve_model(config.model),
        run,
        accelerator,
        model_dtype(config.model, accelerator.device),
    )
    cache = EncodedCache(rank.cache_folder)
    planned = run_folder.read_plan(run) or _encode(rank, cache, samples)
    # Sharding moves the transformer to the device block by block; whole, it might not fit.
    sharded = config.run.sharding == "fsdp2"
    trainee = load_trainee(rank.model, torch.device("cpu") if sharded else rank.device, rank.dtype)
    trainee.vae.to(rank.device)
    trained = _train(rank, cache, planned, trainee)
    if accelerator.is_main_process:
        _write_adapter(rank, planned, trained)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def _encode(rank: _Rank, cache: EncodedCache, samples: Sequence[TrainingSample]) -> list[Planned]:
    """Every rank encodes its share; the main process fixes the plan."""
    config, accelerator = rank.config, rank.accelerator
    encoder = SampleEncoder(
        config,
        rank.model.preset,
        encoding_identity(rank.fingerprint, rank.dtype),
        cache,
        lambda: load_encoders(rank.model, rank.device, rank.dtype, config.model.target_ring),
    )
    work = crops_to_encode(samples, config)
    share = work[accelerator.process_index :: accelerator.num_processes]
    results = []
    for result in encoder(share):
        results.append(result)
        if len(results) % 100 == 0 or len(results) == len(share):
            logger.info("encoded %d of %d crops", len(results), len(share))
    run_folder.write_part(rank.run, accelerator.process_index, results)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        run_folder.merge_parts(rank.run, accelerator.num_processes)
    accelerator.wait_for_everyone()
    cache.refresh()
    del encoder
    gc.collect()
    if rank.device.type == "cuda":
        torch.cuda.empty_cache()
    planned = run_folder.read_plan(rank.run)
    if planned is None:
        raise JobError(f"{rank.run}: plan.parquet is not visible to every rank; the run folder must be shared")
    return planned


def _train(rank: _Rank, cache: EncodedCache, planned: list[Planned], trainee: Trainee) -> dict[str, torch.Tensor]:
    config, accelerator = rank.config, rank.accelerator
    spec = BatchSpec(config.loss, trainee.latent_px, config.model.target_ring, config.run.text_multiple)
    denoiser = Denoiser(
        trainee.transformer,
        config.lora,
        seed=config.seed,
        checkpointing=config.run.checkpointing,
        compiled=config.model.compile is True,
        conditions=rank.model.preset.conditions,
    )
    if config.run.sharding == "fsdp2":
        shard(denoiser, rank.device, accelerator.num_processes)
    training = Training(
        config=config,
        run=rank.run,
        batches=_batches(rank, cache, planned, spec),
        trained_as=trained_as(rank.model.preset, config.targets == "mixed"),
        fingerprint=rank.fingerprint,
        validate=Observation(
            config,
            rank.model.preset,
            cache,
            planned,
            trainee,
            spec,
            accelerator,
            rank.device,
            sparse=rank.sparse_share == 1.0,
        ),
    )
    return Trainer(training, denoiser, accelerator).fit()


def _batches(rank: _Rank, cache: EncodedCache, planned: list[Planned], spec: BatchSpec) -> TrainingBatches:
    config = rank.config
    drawn = [row for row in planned if row.split == "train" and not row.twin]
    twins = {(row.sample_id, row.variant): cache.entry(row.key) for row in planned if row.twin}
    entries = [(cache.entry(row.key), row.sample_id) for row in drawn]
    offered = drawable(cache, entries, [row.has_reference for row in drawn], rank.sparse_share > 0, spec)
    return TrainingBatches(
        cache,
        entries,
        [twins.get((row.sample_id, row.variant)) for row in drawn],
        DrawOrder(offered, config.run.micro_batch, config.run.reference_share, config.seed),
        spec,
        dropout=config.crop.reference_dropout,
        sparse_share=rank.sparse_share,
        seed=config.seed,
        count=config.run.steps * config.run.batch_size // config.run.micro_batch,
    )


def _write_adapter(rank: _Rank, planned: list[Planned], trained: dict[str, torch.Tensor]) -> None:
    config = rank.config
    data = adapter_bytes(
        trained,
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        trained_as=trained_as(rank.model.preset, config.targets == "mixed"),
        fingerprint=rank.fingerprint,
        dtype=torch.bfloat16 if config.run.save_dtype == "bfloat16" else torch.float32,
    )
    storage.write(str(rank.run / "adapter" / WEIGHTS_NAME), data)
    result = {"steps": config.run.steps, "sha256": storage.sha256(data), "data": run_folder.data_digest(planned)}
    storage.write(str(rank.run / RESULT), json.dumps(result, indent=1).encode())


def _log_to_stderr(rank: int) -> None:
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    main()
