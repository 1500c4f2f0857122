"""From a finished item to its files in the run folder: the output, and what else the run asks to keep."""

import posixpath
from collections.abc import Mapping

import numpy as np

from refine_ops import storage
from refine_ops.chain import Finished
from refine_ops.config import KeepPatches
from refine_ops.image.formats.png_pixels import LEVEL, encode_png
from refine_ops.image.formats.table import MEDIA_SUFFIX
from refine_ops.job.outcome import Output
from refine_ops.job.run_folder import RunFolder
from refine_ops.records import Patch, RegionOutcome


class Publisher:
    """Writes finished items into one run folder; `keep_patches` says whose raw patches are kept beside them."""

    def __init__(self, folder: RunFolder, keep_patches: KeepPatches) -> None:
        self._folder, self._keep_patches = folder, keep_patches

    @property
    def needs_patches(self) -> bool:
        return self._keep_patches != "none"

    def publish(self, name: str, finished: Finished, patches: Mapping[str, Patch]) -> Output:
        """Write the output for the item's planned `name`; what was asked for beside it comes first, so that an output
        that is there is complete.

        Args:
            patches: Raw patches by region id, where they are kept; a region of several tiles has none.

        Raises:
            ItemError: `output.conflict` -- other bytes lie there already; `output.escapes`.
            JobError: the run folder cannot be written.
        """
        name = output_name(name, finished)
        at = self._folder.object_of(name)
        for region in finished.regions:
            if region.region_id in patches and self._keeps(region):
                pixels = np.rint(patches[region.region_id].pixels * 255).astype(np.uint8)
                storage.write(self._folder.patch_of(at, region.region_id), encode_png(pixels, LEVEL))
        if finished.change_mask is not None:
            storage.write(self._folder.change_mask_of(at), finished.change_mask)
        storage.write(self._folder.uri_of(at), finished.data, only_if_absent=True)
        digest, size = storage.sha256(finished.data), len(finished.data)
        return Output(name, at, finished.format, finished.width, finished.height, digest, size)

    def _keeps(self, region: RegionOutcome) -> bool:
        """All, or those of regions whose drift was undone: there the raw patch is not what was pasted."""
        drifted = region.alignment.geometry_applied or region.alignment.tone_applied
        return self._keep_patches == "all" or (self._keep_patches == "flagged" and drifted)


def output_name(planned: str, finished: Finished) -> str:
    """The result's plain name; where the format was changed, the suffix says so."""
    if finished.format == finished.source_format:
        return planned
    return posixpath.splitext(planned)[0] + MEDIA_SUFFIX[finished.format]
