"""The run folder: where a run keeps everything, and the fingerprint that says what its pixels depend on."""

import json
import logging
import platform
import time
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from refine_ops import PIXEL_VERSION, identity, storage
from refine_ops.config import OnNewFingerprint, RefineSettings, pixel_settings
from refine_ops.errors import ItemError, JobError
from refine_ops.job.starts import newest_with, read_start, start_numbers

logger = logging.getLogger(__name__)

TAKE_OVER: Final = "take-over"
"""What a start is called that brought the folder to the present form."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run; `fingerprint` is the hash of what determines its pixels, `start` the start that works in it (0:
    none, somebody who reads)."""

    uri: str
    fingerprint: str
    start: int = 0

    @property
    def plan(self) -> str:
        return storage.join(self.uri, "plan.parquet")

    @property
    def outcomes(self) -> str:
        return storage.join(self.uri, "outcomes")

    @property
    def outputs(self) -> str:
        return storage.join(self.uri, "outputs")

    @property
    def patches(self) -> str:
        return storage.join(self.uri, "patches")

    def object_of(self, name: str) -> str:
        """Where this start puts an output, below the run folder: nothing is ever written over."""
        return f"outputs/{self.start:08d}/{name}"

    def candidate_of(self, name: str) -> str:
        """Where this start keeps a file with what was held of an item, below the run folder, for a person to see."""
        return f"held/{self.start:08d}/{name}"

    def patch_of(self, at: str, region_id: str) -> str:
        """Where a region's raw patch is kept, if it is; `at` is the object of the output, or of the candidate where
        there is no output."""
        return storage.join(self.patches, f"{_below_kind(at)}.{quote(region_id, safe='')}.png")

    def change_mask_of(self, at: str) -> str:
        """Where the mask of what changed is written, if asked for, in image coordinates."""
        return storage.join(self.uri, "masks", f"{_below_kind(at)}.png")

    def broken_promise_of(self, output: str) -> str:
        """Where the picture of a broken promise is kept."""
        return storage.join(self.uri, "evidence", f"{output}.png")

    def refuse_own_output(self, image: str) -> None:
        """An image in `outputs/` or `held/` is one that this run made.

        Raises:
            ItemError: `image.own_output`.
        """
        if any(storage.inside(image, storage.join(self.uri, own)) for own in ("outputs", "held", "current")):
            raise ItemError("image.own_output", f"{image} is this run's own output; refine it with another --out")

    @property
    def dead_letter(self) -> str:
        return storage.join(self.uri, "dead_letter.parquet")

    def uri_of(self, at: str) -> str:
        """The file of an object.

        Raises:
            ItemError: `output.escapes` -- a symbolic link leads out of `outputs/` or `held/`.
        """
        uri = storage.join(self.uri, at)
        if not (storage.inside(uri, self.outputs) or storage.inside(uri, storage.join(self.uri, "held"))):
            raise ItemError("output.escapes", f"output {at!r} leads out of {self.outputs}; remove the symbolic link")
        return uri


def _below_kind(at: str) -> str:
    return at.partition("/")[2]


def fingerprint_parts(settings: RefineSettings, weights: dict[str, str]) -> dict[str, str]:
    """Everything a pixel depends on but the item itself, as flat names and values that can be compared and named."""
    parts = identity.flat(pixel_settings(settings), "settings.")
    parts |= {f"weights.{k}": v for k, v in weights.items()}
    others = [name for name in identity.PIXEL_PACKAGES if f"version.{name}" not in weights]
    parts |= {f"package.{name}": found for name, found in identity.versions(others).items()}
    return parts | {"pixel_version": str(PIXEL_VERSION)}


def find_run(out: str, parts: dict[str, str], on_new: OnNewFingerprint = "refuse") -> RunFolder:
    """The run folder in `out`, whether it is there yet or not; nothing is written.

    Raises:
        JobError: its last start's pixels depend on other things, and `on_new` is "refuse"; the differing names and both
            values are in the message.
    """
    try:
        uri = storage.resolve(out)
    except ItemError as e:
        raise JobError(f"run folder {e}") from e
    record = identity.recorded(storage.join(uri, "run.json"))
    if record is not None and is_of_an_earlier_release(uri):
        raise JobError(
            f"{uri} was made by release 0.1.0; bring it to the present form first: refine-ops take-over {uri}"
        )
    if record is not None and on_new == "refuse":
        _refuse_other(uri, _parts_in_force(uri, record), parts)
    return RunFolder(uri, identity.digest(parts)[:32])


def is_of_an_earlier_release(uri: str) -> bool:
    """Whether it holds outcomes and no start made them, or taking it over has not come to its end."""
    numbers = start_numbers(uri)
    if not numbers:
        return next(iter(storage.list_files(storage.join(uri, "outcomes"), ".parquet")), None) is not None
    # The first record tells of almost every folder; only one that was taken over has more to look at.
    records = (read_start(uri, number) for number in numbers)
    return all(record.what.get("command") == TAKE_OVER and record.exit != "done" for record in records)


def find_start(uri: str, start: int, parts: dict[str, str]) -> RunFolder:
    """The run folder as a lane of `start` works in it.

    Raises:
        JobError: this machine would make other pixels than that start.
    """
    if changed := identity.differences(read_start(uri, start).what.get("parts", {}), parts):
        raise JobError(
            f"this machine would make other pixels than start {start} of {uri}:\n{_told(changed)}\n"
            "Give it the same weights and versions as the machine that started it."
        )
    return RunFolder(uri, identity.digest(parts)[:32], start)


def open_run(out: str, parts: dict[str, str], config: dict[str, Any], on_new: OnNewFingerprint = "refuse") -> RunFolder:
    """Create the run folder, or reopen it for resume.

    Raises:
        JobError: the folder cannot be written; or as `find_run`.
    """
    folder = find_run(out, parts, on_new)
    conditional = storage.probe_writable(folder.uri)
    if not conditional:
        logger.warning(
            "%s ignores conditional writes (If-None-Match): two runs that write one output at once would not notice "
            "each other. Everything else holds; start one run of a folder at a time, or use a store that honours them.",
            folder.uri,
        )
    record = {
        "version": 1,
        "created_at": time.time(),
        "fingerprint": folder.fingerprint,
        "parts": parts,
        "config": config,
        "python": platform.python_version(),
        "conditional_writes": conditional,
    }
    identity.record_once(storage.join(folder.uri, "run.json"), record)
    return folder


def reopen_run(uri: str) -> tuple[RunFolder, dict[str, Any]]:
    """A run folder that exists, and its `run.json`.

    Raises:
        JobError: there is no run there.
    """
    try:
        uri = storage.resolve(uri)
        record = json.loads(storage.read(storage.join(uri, "run.json")))
        return RunFolder(uri, record["fingerprint"]), record
    except (ItemError, ValueError, KeyError) as e:
        raise JobError(f"{uri} is not a run folder: {e}") from e


def _parts_in_force(uri: str, record: dict[str, Any]) -> dict[str, str]:
    """What the pixels of the newest start depend on that counts, or of the one that made the folder."""
    newest = newest_with(uri, "parts")
    found: dict[str, str] = newest.what["parts"] if newest else record.get("parts", {})
    return found


def _refuse_other(uri: str, before: dict[str, str], parts: dict[str, str]) -> None:
    if changed := identity.differences(before, parts):
        raise JobError(
            f"{uri} holds a run with another fingerprint; its pixels would not be the same:\n{_told(changed)}\n"
            "Use the same settings and versions; or --set on_new_fingerprint=new-work: what is new or changed is "
            "refined with these, what is published stays; or on_new_fingerprint=redo: all is refined again, with "
            "max_new at most so many items per start. Another --out refines everything at once."
        )


def _told(changed: list[identity.Difference]) -> str:
    return "\n".join(f"  {d.name}: the run has {d.there!r}, now {d.now!r}" for d in changed)
