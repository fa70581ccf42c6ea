"""Upload artifacts of a run without waiting long for a store that is broken."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from pipeline.storage import StorageError
from pipeline.track.attempt import Failure, attempt
from pipeline.track.unsent_run import UnsentRun

logger = logging.getLogger(__name__)

UPLOAD_TIMEOUT_S = 30.0
RETRY_S = 120.0


class ArtifactUpload:
    """Uploads files of one run; keeps those that the store does not take, and sends them later.

    After a failure, which is logged once, the store is left alone for a while: a broken one would
    cost a job minutes for each file. Nothing raises.

    Args:
        client: client of the tracking store.
        run_id: the run.
        unsent: keeps the files meanwhile; None leaves them out.
        timeout_s: longest time to wait for one upload, seconds.
        retry_s: pause after a failure, seconds.
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        unsent: UnsentRun | None = None,
        timeout_s: float = UPLOAD_TIMEOUT_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failure: Failure | None = None
        """Why the store does not take artifacts; None while it does."""
        self.kept_because: str | None = None
        """Why the last `send_kept` has left files; None if it has left none."""
        self._client = client
        self._run_id = run_id
        self._unsent = unsent
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._clock = clock
        self._failed_at_s = 0.0

    def text(self, content: str, name: str) -> None:
        """Upload text as a file, with folders in its name."""
        if self._send(name, lambda: self._client.log_text(self._run_id, content, name)):
            return
        if self._unsent is not None:
            self._unsent.keep_text(name, content)

    def file(self, path: Path, folder: str = "") -> None:
        """Upload a local file into a folder of the run."""
        name = f"{folder}/{path.name}".lstrip("/")
        if self._send(name, lambda: self._log_file(path, folder)):
            return
        if self._unsent is not None:
            self._unsent.keep_file(name, path)

    def send_kept(self) -> int:
        """Try to send the kept files; return the number of those that are still kept.

        A file that the store refuses, because it is too large, does not keep back the others. A
        store that does not answer is not asked again.
        """
        self.kept_because = None
        if self._unsent is None:
            return 0
        names = self._unsent.artifacts()
        kept = 0
        for number, name in enumerate(names):
            failure = self._send_kept_file(name, self._unsent)
            if failure is None:
                continue
            kept += 1
            self.kept_because = self.kept_because or f"{name}: {failure}"
            if failure.is_lost:
                self._note(failure)
                return kept + len(names) - number - 1
        if kept and self.failure is None:
            logger.warning(
                "%d of %d kept artifacts of MLflow run %s cannot be sent (%s)",
                kept,
                len(names),
                self._run_id,
                self.kept_because,
            )
        return kept

    def _send_kept_file(self, name: str, unsent: UnsentRun) -> Failure | None:
        try:
            with unsent.artifact(name) as path:
                folder = name.rpartition("/")[0]
                failure = attempt(lambda: self._log_file(path, folder), self._timeout_s)
        except StorageError as error:
            return Failure(str(error))
        if failure is None:
            self._note(None)
            unsent.drop_artifact(name)
        return failure

    def _log_file(self, path: Path, folder: str) -> None:
        self._client.log_artifact(self._run_id, str(path), folder or None)

    def _is_due(self) -> bool:
        return self.failure is None or self._clock() - self._failed_at_s >= self._retry_s

    def _send(self, name: str, action: Callable[[], None]) -> bool:
        """Try an upload if it is due; after the first one that works again, send what was kept."""
        had_failed = self.failure is not None
        if not (self._is_due() and self._attempt(action)):
            return False
        if self._unsent is not None:
            # An earlier version must not replace this one; another process may have kept it.
            self._unsent.drop_artifact(name)
            if had_failed:
                self.send_kept()
        return True

    def _attempt(self, action: Callable[[], None]) -> bool:
        failure = attempt(action, self._timeout_s)
        self._note(failure)
        return failure is None

    def _note(self, failure: Failure | None) -> None:
        """Note whether the store takes files, and log when that changes."""
        if failure is None and self.failure is not None:
            logger.warning("the artifact store of MLflow run %s takes files again", self._run_id)
        if failure is not None:
            self._failed_at_s = self._clock()
            if self.failure is None:
                self._report(failure)
        self.failure = failure

    def _report(self, failure: Failure) -> None:
        logger.warning(
            "the artifact store of MLflow run %s does not take files (%s); the job goes on, and "
            "its files are in the output folder%s",
            self._run_id,
            failure,
            "" if self._unsent is None else f"; they are sent from {self._unsent.url} later",
        )
