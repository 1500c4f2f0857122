"""The run folder in this process's hands, for the length of one start."""

from typing import Any

from refine_ops.config import RefineBatchConfig
from refine_ops.job.run_folder import open_run
from refine_ops.job.starts import Exit, Start, open_start


class RunStart:
    """From the moment a manifest is accepted to the end of the start.

    `exit` is how the start will be said to have ended; whatever is raised before it is set is a failure.
    """

    def __init__(self, config: RefineBatchConfig, parts: dict[str, str], promises: dict[str, Any]) -> None:
        self._config, self._parts, self._promises = config, parts, promises
        self._start: Start | None = None
        self.exit: Exit = "failed"

    @property
    def start(self) -> Start:
        assert self._start is not None, "the manifest was accepted"
        return self._start

    def begin(self) -> None:
        """Create or reopen the run folder and open the next start.

        Raises:
            RunInUse: another process is at work there.
            JobError: the folder cannot be written, or holds a run with another fingerprint.
        """
        settings = self._config.model_dump(mode="json")
        folder = open_run(self._config.out, self._parts, settings, self._config.on_new_fingerprint)
        self._start = open_start(folder.uri, {"config": settings, "parts": self._parts, "promises": self._promises})

    def __enter__(self) -> "RunStart":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._start is None:
            return
        stopped = kind is not None and not issubclass(kind, Exception)
        self._start.close("stopped" if stopped else self.exit, message="" if error is None else str(error))
