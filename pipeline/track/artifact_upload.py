"""Upload artifacts of a run without waiting long for a store that is broken."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

from pipeline.storage import StorageError
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
        self.failure: str | None = None
        """Why the store does not take artifacts; None while it does."""
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
        """Try to send the kept files; return the number of those that are still kept."""
        names = [] if self._unsent is None else self._unsent.artifacts()
        for number, name in enumerate(names):
            if not self._send_kept_file(name):
                return len(names) - number
        return 0

    def _send_kept_file(self, name: str) -> bool:
        if self._unsent is None:
            return False
        try:
            with self._unsent.artifact(name) as path:
                if not self._attempt(lambda: self._log_file(path, name.rpartition("/")[0])):
                    return False
        except StorageError as error:
            logger.warning("the artifact %s cannot be sent: %s", name, error)
            return False
        self._unsent.drop_artifact(name)
        return True

    def _log_file(self, path: Path, folder: str) -> None:
        self._client.log_artifact(self._run_id, str(path), folder or None)

    def _is_due(self) -> bool:
        return self.failure is None or self._clock() - self._failed_at_s >= self._retry_s

    def _send(self, name: str, action: Callable[[], None]) -> bool:
        """Try an upload if it is due; after the first one that works again, send what was kept."""
        had_failed = self.failure is not None
        if not (self._is_due() and self._attempt(action)):
            return False
        if had_failed and self._unsent is not None:
            self._unsent.drop_artifact(name)  # an earlier version must not replace this one
            self.send_kept()
        return True

    def _attempt(self, action: Callable[[], None]) -> bool:
        failure = attempt(action, self._timeout_s)
        if failure is None and self.failure is not None:
            logger.warning("the artifact store of MLflow run %s takes files again", self._run_id)
        if failure is not None:
            self._failed_at_s = self._clock()
            if self.failure is None:
                self._report(failure)
        self.failure = failure
        return failure is None

    def _report(self, failure: str) -> None:
        logger.warning(
            "the artifact store of MLflow run %s does not take files (%s); the job goes on, and "
            "its files are in the output folder%s",
            self._run_id,
            failure,
            "" if self._unsent is None else f"; they are sent from {self._unsent.url} later",
        )


def attempt(action: Callable[[], object], timeout_s: float) -> str | None:
    """Run an action that may hang or raise; return why it failed, or None if it did not.

    Args:
        action: what to do; it may go on after the time is over.
        timeout_s: longest time to wait for it, seconds.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            action()
        except Exception as error:  # of boto, requests or MLflow, depending on the store
            errors.append(error)

    # A daemon: neither this job nor its end waits for a request that hangs.
    thread = threading.Thread(target=run, name="mlflow-request", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return f"no answer in {timeout_s:g} s"
    if errors:
        first_line = next(iter(str(errors[0]).splitlines()), "")
        return f"{type(errors[0]).__name__}: {first_line}"
    return None
