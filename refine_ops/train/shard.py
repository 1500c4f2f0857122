"""Frozen weights split over the ranks (FSDP2), for devices that cannot hold the transformer.

torch's `fully_shard` is applied here rather than through accelerate's plugin, which takes no CPU group (so no test
without GPUs) and wraps by class: the modulations of all blocks are computed outside the blocks, at once, so they must
be units of their own.
"""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from refine_ops.train.denoiser import Denoiser


def shard(model: Denoiser, device: torch.device, ranks: int) -> None:
    """Split every parameter over `ranks` devices, block by block: one whole block at a time is on the device."""
    mesh = init_device_mesh(device.type, (ranks,))
    for wrapper, block in zip(model.blocks, model.transformer.transformer_blocks, strict=True):
        for unit in (block.img_mod, block.txt_mod, wrapper):
            fully_shard(unit, mesh=mesh)
    # The root reaches every block a second time, through the transformer.
    done = {parameter for wrapper in model.blocks for parameter in wrapper.parameters()}
    fully_shard(model, mesh=mesh, ignored_params=done)
