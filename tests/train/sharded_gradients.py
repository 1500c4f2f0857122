"""Two ranks: one training step with split weights, saved whole by rank 0. Run by `test_shard.py` under torchrun."""

import os
import sys

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from refine_ops.model.doctor.random_weights import random_pipeline
from refine_ops.train.config import LoraSettings, OptimizerSettings
from refine_ops.train.denoiser import Denoiser, trainable
from refine_ops.train.optimize import load_parameters, make_optimizer, whole
from refine_ops.train.shard import shard

SHAPES = [(1, 3, 4), (1, 3, 4)]


def one_step(sharded: bool) -> dict[str, torch.Tensor]:
    """Gradients and weights after one step on two samples, one per rank where there are two."""
    torch.set_num_threads(1)
    model = Denoiser(
        random_pipeline().transformer, LoraSettings(rank=4, alpha=4), seed=0, checkpointing="block", compiled=False
    )
    generator = torch.Generator().manual_seed(1)
    start = {n: p + 0.2 * torch.randn(p.shape, generator=generator) for n, p in trainable(model).items()}
    if sharded:
        shard(model, torch.device("cpu"), 2)
    parameters = trainable(model)
    load_parameters(parameters, start)
    optimizer = make_optimizer(parameters, OptimizerSettings(learning_rate=1e-2))
    x, condition, text = (
        torch.randn(2, count, size, generator=generator) for count, size in ((12, 64), (12, 64), (7, 32))
    )
    for sample in [dist.get_rank()] if sharded else [0, 1]:
        rows = slice(sample, sample + 1)
        velocity = model(x[rows], condition[rows], text[rows], None, torch.tensor([0.7]), SHAPES, None)
        (velocity.square().mean() / (1 if sharded else 2)).backward()
    norm = whole(torch.nn.utils.clip_grad_norm_(parameters.values(), float("inf")).detach())
    optimizer.step()
    return {"norm": norm.reshape(1)} | {name: whole(p.detach()).clone() for name, p in parameters.items()}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    result = one_step(sharded=True)
    if dist.get_rank() == 0:
        save_file(result, sys.argv[1])
    dist.barrier()
    # FSDP's meshes outlive the group, and now and then gloo's threads abort the interpreter as it takes them down.
    os._exit(0)
