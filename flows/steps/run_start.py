"""The run folder in this process's hands, for the length of one start."""

import platform
from typing import Any

from refine_ops import identity
from refine_ops.config import RefineBatchConfig
from refine_ops.job.planning.plan import Plan
from refine_ops.job.run_folder import open_run
from refine_ops.job.starts import Exit, Start, open_start


class RunStart:
    """From the moment a manifest is accepted to the end of the start.

    `exit` is how the start will be said to have ended; whatever is raised before it is set is a failure. `counts` is
    what it did: items by what became of them, and seconds of its devices.
    """

    def __init__(self, config: RefineBatchConfig, parts: dict[str, str], promises: dict[str, Any]) -> None:
        self._config, self._parts, self._promises = config, parts, promises
        self._start: Start | None = None
        self.exit: Exit = "failed"
        self.counts: dict[str, Any] = {}

    @property
    def start(self) -> Start:
        assert self._start is not None, "the manifest was accepted"
        return self._start

    def begin(self, plan: Plan) -> None:
        """Create or reopen the run folder and open the next start; its record says what it was given: the manifest by
        its hash, settings with adapters as versions, hashes of weights, versions.

        Raises:
            RunInUse: another process is at work there.
            JobError: the folder cannot be written, or holds a run with another fingerprint.
        """
        settings = self._config.model_dump(mode="json")
        folder = open_run(self._config.out, self._parts, settings, self._config.on_new_fingerprint)
        given = {
            "manifest": {"uri": self._config.manifest, "sha256": plan.manifest_sha256, "items": plan.items},
            "config": settings,
            "parts": self._parts,
            "promises": self._promises,
            "versions": identity.versions(["refine-ops"]) | {"python": platform.python_version()},
        }
        self._start = open_start(folder.uri, given)

    def __enter__(self) -> "RunStart":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._start is None:
            return
        stopped = kind is not None and not issubclass(kind, Exception)
        said = "" if error is None else str(error)
        self._start.close("stopped" if stopped else self.exit, message=said, **self.counts)
