"""The refiner that settings name, with as little imported as it needs."""

import logging
from typing import TYPE_CHECKING

from refine_ops.config import ModelSettings
from refine_ops.model.presets import TRANSFER, EditorPreset
from refine_ops.model.presets.editors import said_of_licence
from refine_ops.model.source import resolve_model
from refine_ops.model.transfer import TransferRefiner
from refine_ops.model.transfer_first import TransferFirst
from refine_ops.records import Refiner

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def open_refiner(settings: ModelSettings, device: "torch.device | None" = None) -> Refiner:
    """Load it onto `device`; `transfer` needs no device, no torch and no weights.

    Raises:
        JobError: Missing or unfit files, impossible settings, too little device memory.
    """
    if settings.model == TRANSFER:
        return TransferRefiner()
    assert device is not None, "a network runs on a device"
    network = _network(settings, device)
    return TransferFirst(network) if settings.first == TRANSFER else network


def _network(settings: ModelSettings, device: "torch.device") -> Refiner:
    """A non-commercial licence is named in the log."""
    model = resolve_model(settings)
    if told := said_of_licence(model.preset, model.folder, settings):
        logger.warning(told)
    if isinstance(model.preset, EditorPreset):
        from refine_ops.model.editor.refiner import load_editor

        return load_editor(model, settings, device)
    from refine_ops.model.refiner import load_refiner

    return load_refiner(settings, device)
