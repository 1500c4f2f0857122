"""LPIPS (AlexNet, the primary one, and VGG16) and the distance of VGG16's last features.

The paper's column "VGG" is not defined there; ours is the mean squared difference of relu5_3 of the ImageNet-normalised
crops, which gives values of the published size. LPIPS takes the `lpips` package's network and calibrated heads.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from refine_ops.errors import JobError
from refine_ops.eval.metrics.metric import CaseBatch, Meter, Metric, MissingMeter, Scores, to_tensor
from refine_ops.eval.metrics.trunks import MissingWeights, Trunk, load_trunk

MIN_SIDE_PX: Final = 32
"""Smaller boxes vanish in AlexNet's strides; their LPIPS is missing."""

LPIPS_ALEX = Metric("lpips_alex", 1, "LPIPS", "lower", "region", "LPIPS v0.1 AlexNet in the box, at native size")
LPIPS_BG = Metric(
    "lpips_bg", 1, "LPIPS_bg", "lower", "background",
    "LPIPS AlexNet to the input over the whole image, the input's box put into both: 0 for an identical background",
)  # fmt: skip
LPIPS_VGG = Metric("lpips_vgg", 1, "LPIPS VGG", "lower", "region", "LPIPS v0.1 VGG16 in the box, at native size")
VGG = Metric("vgg", 1, "VGG", "lower", "region", "MSE of VGG16 relu5_3 features in the box (our reading)")


@dataclass(frozen=True, slots=True)
class LpipsAlexMeter:
    """LPIPS with AlexNet, in the box and over the background."""

    network: torch.nn.Module
    device: torch.device
    metrics: tuple[Metric, ...] = (LPIPS_ALEX, LPIPS_BG)
    source: str = "lpips 0.1 alexnet"
    repeatable: bool = True
    missing: str = ""

    @torch.inference_mode()
    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        return {
            "lpips_alex": _distance(self, batch.crop(batch.outputs), batch.crop(batch.target)),
            "lpips_bg": _distance(self, batch.with_input_foreground(batch.outputs), batch.inputs),
        }


@dataclass(frozen=True, slots=True)
class VggMeter:
    """LPIPS with VGG16 and the relu5_3 distance, of one trunk."""

    network: torch.nn.Module
    device: torch.device
    metrics: tuple[Metric, ...] = (LPIPS_VGG, VGG)
    source: str = "lpips 0.1 vgg16"
    repeatable: bool = True
    missing: str = ""

    @torch.inference_mode()
    def measure(self, batch: CaseBatch) -> Mapping[str, Scores]:
        ours, truth = batch.crop(batch.outputs), batch.crop(batch.target)
        if min(ours.shape[1:3]) < MIN_SIDE_PX:
            return {"lpips_vgg": np.full(len(batch), np.nan), "vgg": np.full(len(batch), np.nan)}
        network: Any = self.network
        pairs = list(zip(self._layers(ours), self._layers(truth), strict=True))
        weighed = [lin(_difference(a, b)).mean((1, 2, 3)) for lin, (a, b) in zip(network.lins, pairs, strict=True)]
        last = pairs[-1][0] - pairs[-1][1]
        return {
            "lpips_vgg": torch.stack(weighed).sum(0).double().cpu().numpy(),
            "vgg": (last**2).mean((1, 2, 3)).double().cpu().numpy(),
        }

    def _layers(self, images: np.ndarray) -> Sequence[torch.Tensor]:
        """relu1_2 to relu5_3 of the ImageNet-normalised images: LPIPS and the VGG distance share one pass."""
        network: Any = self.network
        layers: Sequence[torch.Tensor] = network.net(network.scaling_layer(to_tensor(images, self.device) * 2 - 1))
        return layers


def perceptual_meters(folder: str | None, allow_hub: bool, device: torch.device) -> list[Meter]:
    """Both meters, or what stands for them where weights are absent."""
    meters: list[Meter] = []
    try:
        meters.append(LpipsAlexMeter(lpips_network("alexnet", folder, allow_hub, device), device))
    except MissingWeights as e:
        meters.append(MissingMeter((LPIPS_ALEX, LPIPS_BG), str(e)))
    try:
        meters.append(VggMeter(lpips_network("vgg16", folder, allow_hub, device), device))
    except MissingWeights as e:
        meters.append(MissingMeter((LPIPS_VGG, VGG), str(e)))
    return meters


def lpips_network(trunk: Trunk, folder: str | None, allow_hub: bool, device: torch.device) -> torch.nn.Module:
    """The `lpips` package's network with the given trunk in it.

    Raises:
        MissingWeights: no weights, or the package is absent.
        JobError: the weights are not this trunk's.
    """
    state = load_trunk(trunk, folder, allow_hub)
    try:
        import lpips
    except ImportError as e:
        raise MissingWeights("the package lpips is absent: pip install 'refine-ops[eval]'") from e
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision for random weights in a deprecated spelling
        network: Any = lpips.LPIPS(net="alex" if trunk == "alexnet" else "vgg", pnet_rand=True, verbose=False)
    own = network.net.state_dict()
    try:  # `slice3.6.weight` in the package is `features.6.weight` in torchvision
        network.net.load_state_dict({k: state["features." + k.split(".", 1)[1]] for k in own})
    except (KeyError, RuntimeError) as e:
        raise JobError(f"the weights do not fit torchvision's {trunk}: {e}") from e
    module: torch.nn.Module = network.eval().requires_grad_(False).to(device)
    return module


def _difference(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared difference of channel-normalised features, as LPIPS defines it."""
    import lpips

    squared: torch.Tensor = (lpips.normalize_tensor(a) - lpips.normalize_tensor(b)) ** 2
    return squared


def _distance(meter: LpipsAlexMeter, a: np.ndarray, b: np.ndarray) -> Scores:
    if min(a.shape[1:3]) < MIN_SIDE_PX:
        return np.full(len(a), np.nan)
    first, second = to_tensor(a, meter.device), to_tensor(b, meter.device)
    return np.asarray(meter.network(first, second, normalize=True).flatten().double().cpu().numpy(), np.float64)
