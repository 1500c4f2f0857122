"""The refiner that settings name, with as little imported as it needs."""

from typing import TYPE_CHECKING

from refine_ops.config import ModelSettings
from refine_ops.model.presets import TRANSFER
from refine_ops.model.transfer import TransferRefiner
from refine_ops.model.transfer_first import TransferFirst
from refine_ops.records import Refiner

if TYPE_CHECKING:
    import torch


def open_refiner(settings: ModelSettings, device: "torch.device | None" = None) -> Refiner:
    """Load it onto `device`; `transfer` needs no device, no torch and no weights.

    Raises:
        JobError: Missing or unfit files, impossible settings, too little device memory.
    """
    if settings.model == TRANSFER:
        return TransferRefiner()
    from refine_ops.model.refiner import load_refiner

    assert device is not None, "a network runs on a device"
    network = load_refiner(settings, device)
    return TransferFirst(network) if settings.first == TRANSFER else network
