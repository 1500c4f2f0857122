"""From a judged item to its files in the run folder and its outcome: the output, and what else is to be kept."""

import posixpath
from collections.abc import Callable, Mapping

import numpy as np

from refine_ops import storage
from refine_ops.chain import Finished, Judged
from refine_ops.config import HeldOutput, KeepPatches
from refine_ops.errors import ItemError
from refine_ops.image.formats.png_pixels import LEVEL, encode_png
from refine_ops.image.formats.table import MEDIA_SUFFIX
from refine_ops.image.source import Source
from refine_ops.job import outcome
from refine_ops.job.outcome import Attempt, Output
from refine_ops.job.run_folder import RunFolder
from refine_ops.judge.judge import held_message
from refine_ops.provenance import policy
from refine_ops.records import Outcome, Patch, RegionOutcome


class Publisher:
    """Writes judged items into one run folder; `keep_patches` says whose raw patches are kept beside them, and
    `held_output` whether an item of which nothing was accepted leaves a copy of its source."""

    def __init__(self, folder: RunFolder, keep_patches: KeepPatches, held_output: HeldOutput = "none") -> None:
        self._folder, self._keep_patches, self._held_output = folder, keep_patches, held_output

    @property
    def needs_patches(self) -> bool:
        return self._keep_patches != "none"

    def publish(self, attempt: Attempt, judged: Judged, patches: Mapping[str, Patch], source: Source) -> Outcome:
        """Write what is to be kept of the item, the output last, so that one that is there is complete.

        Args:
            patches: Raw patches by region id, where they are kept; a region of several tiles has none.

        Raises:
            ItemError: `output.conflict` -- other bytes lie there already; `output.escapes`.
            JobError: the run folder cannot be written.
        """
        planned, published, shown = attempt.item.output, judged.published, judged.candidate
        self._keep(planned, published or shown, patches, held=published is None)
        candidate = self._write(self._folder.candidate_of, planned, shown) if shown else None
        if published is not None:
            output = self._write(self._folder.object_of, planned, published)
            return outcome.done(attempt, output, judged.regions, published.verification, candidate)
        copy = self._copied(planned, source) if self._held_output == "source" else None
        proof = shown.verification if shown else None
        return outcome.held(attempt, judged.regions, held_message(judged.regions), candidate, proof, copy)

    def _write(self, place: Callable[[str], str], planned: str, finished: Finished) -> Output:
        name = output_name(planned, finished)
        at = place(name)
        data = _written(self._folder.uri_of(at), finished)
        return Output(name, at, finished.format, finished.width, finished.height, storage.sha256(data), len(data))

    def _copied(self, planned: str, source: Source) -> Output:
        """The source itself, byte for byte, under the item's own name."""
        at, data = self._folder.object_of(planned), source.data
        storage.write(self._folder.uri_of(at), data, only_if_absent=True)
        return Output(planned, at, source.format, source.width, source.height, storage.sha256(data), len(data))

    def _keep(self, planned: str, finished: Finished | None, patches: Mapping[str, Patch], *, held: bool) -> None:
        """What was asked for beside the output."""
        if finished is None:
            return
        name = output_name(planned, finished)
        at = (self._folder.candidate_of if held else self._folder.object_of)(name)
        for region in finished.regions:
            if region.region_id in patches and self._keeps(region):
                pixels = np.rint(patches[region.region_id].pixels * 255).astype(np.uint8)
                storage.write(self._folder.patch_of(at, region.region_id), encode_png(pixels, LEVEL))
        if finished.change_mask is not None:
            storage.write(self._folder.change_mask_of(at), finished.change_mask)

    def _keeps(self, region: RegionOutcome) -> bool:
        """All, or those of regions whose drift was undone: there the raw patch is not what was pasted."""
        drifted = region.alignment.geometry_applied or region.alignment.tone_applied
        return self._keep_patches == "all" or (self._keep_patches == "flagged" and drifted)


def _written(uri: str, finished: Finished) -> bytes:
    """Write the output; what lies there then. A signed file that a rank which died left there differs from this one in
    its signature alone, and stays."""
    try:
        storage.write(uri, finished.data, only_if_absent=True)
    except ItemError as error:
        if error.reason != "output.conflict" or not finished.verification.signed:
            raise
        there = storage.read(uri)
        if not policy.same_but_for_signature(there, finished.data):
            raise
        return there
    return finished.data


def output_name(planned: str, finished: Finished) -> str:
    """The result's plain name; where the format was changed, the suffix says so."""
    if finished.format == finished.source_format:
        return planned
    return posixpath.splitext(planned)[0] + MEDIA_SUFFIX[finished.format]
