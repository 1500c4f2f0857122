"""The configured detectors, opened."""

from collections.abc import Sequence

from refine_ops.config import ImageLimits
from refine_ops.detect.finding.config import Detector, FindLike
from refine_ops.detect.finding.found import Finder


def open_finders(detectors: Sequence[Detector], limits: ImageLimits) -> list[Finder]:
    """One finder per detector, in their order.

    Raises:
        JobError: an extra is not installed, or what a detector needs cannot be read.
    """
    return [_open(settings, limits) for settings in detectors]


def _open(settings: Detector, limits: ImageLimits) -> Finder:
    # Each is imported where it is wanted: one needs an extra that another does not.
    if isinstance(settings, FindLike):
        from refine_ops.detect.finding.like import LikeFinder, read_references

        return LikeFinder(settings, read_references(settings.references, limits))
    from refine_ops.detect.finding.text import TextFinder

    return TextFinder(settings.scales)
