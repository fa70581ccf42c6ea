"""Upload artifacts of a run without waiting long for a store that is broken."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient

logger = logging.getLogger(__name__)

UPLOAD_TIMEOUT_S = 30.0


class ArtifactUpload:
    """Uploads files of one run, until the store first fails.

    A failure is logged once, and what comes after it is left out: a broken store would cost a job
    minutes for each file. Nothing raises: the job's files are in its output folder as well.

    Args:
        client: client of the tracking store.
        run_id: the run.
        timeout_s: longest time to wait for one upload, seconds.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, timeout_s: float = UPLOAD_TIMEOUT_S
    ) -> None:
        self.failure: str | None = None
        """Why the store does not take artifacts; None while it does."""
        self._client = client
        self._run_id = run_id
        self._timeout_s = timeout_s

    def text(self, content: str, name: str) -> None:
        """Upload text as a file, with folders in its name."""
        self._upload(lambda: self._client.log_text(self._run_id, content, name))

    def file(self, path: Path, folder: str = "") -> None:
        """Upload a local file into a folder of the run."""
        self._upload(lambda: self._client.log_artifact(self._run_id, str(path), folder or None))

    def _upload(self, action: Callable[[], None]) -> None:
        if self.failure is not None:
            return
        errors: list[Exception] = []

        def run() -> None:
            try:
                action()
            except Exception as error:  # of boto, requests or MLflow, depending on the store
                errors.append(error)

        # A daemon: neither this job nor its end waits for a request that hangs.
        thread = threading.Thread(target=run, name="artifact-upload", daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            self.failure = f"no answer in {self._timeout_s:g} s"
        elif errors:
            first_line = next(iter(str(errors[0]).splitlines()), "")
            self.failure = f"{type(errors[0]).__name__}: {first_line}"
        if self.failure is not None:
            logger.warning(
                "the artifact store of MLflow run %s does not take files (%s); the job goes on "
                "without uploading, and its files are in the output folder",
                self._run_id,
                self.failure,
            )
