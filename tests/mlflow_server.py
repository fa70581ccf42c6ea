"""A real MLflow server process for tests, which can be killed and started again."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.postgresql import free_port

START_S = 300.0  # of processor time, a few; but a busy machine is slow


class MlflowServer:
    """An MLflow server on 127.0.0.1; a context manager, which ends it.

    Args:
        folder: where it runs, with its log.
        store: URI of its database.
        artifacts: where it keeps artifacts.
        script: the lines of bash that start it, in place of the usual command; they contain
            ``{port}``.
        settings: further environment variables.
    """

    def __init__(self, folder, store="", artifacts="", script=None, cwd=None, **settings):
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = Path(folder) / "mlflow-server.log"
        self.cwd = cwd or folder
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", store),
            *("--artifacts-destination", artifacts, "--serve-artifacts"),
        ]
        if script is not None:
            self.command = ["bash", "-ec", script.replace("{port}", str(self.port))]
        self.environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **settings}

    def start(self):
        """Start it, also again on the same port, and wait until it answers."""
        # Not the address and the login that the test itself uses.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_TRACK")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                cwd=self.cwd,
                env={**inherited, **self.environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail(f"the MLflow server did not start:\n{self.log.read_text()[-3000:]}")

    def kill(self):
        """Send kill -9 to the server and its worker processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def __enter__(self):
        self.process = None
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_):
        self.kill()
