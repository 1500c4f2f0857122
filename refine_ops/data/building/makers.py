"""The configured source's maker."""

from refine_ops.data.config import BuildDatasetConfig, ManifestSource
from refine_ops.data.stages.attempt import Maker
from refine_ops.data.stages.load import load_stages
from refine_ops.data.stages.photo import PhotoMaker
from refine_ops.data.synthetic.maker import DrawnMaker


def make_maker(config: BuildDatasetConfig, rank: int) -> Maker:
    """The maker of samples for one worker, its models on the rank's device.

    Raises:
        JobError: a model or endpoint cannot be opened, or nothing is left to draw from.
    """
    if isinstance(config.source, ManifestSource):
        return PhotoMaker(config.source, load_stages(config.source, config.exclude, rank), config.limits)
    return DrawnMaker(config.source, config.seed, config.exclude)
