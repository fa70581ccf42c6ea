"""Wait for an MLflow server process of a test, and end it."""

import os
import signal
import time
import urllib.request

import pytest

START_S = 180.0


def wait_until_healthy(server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.uri}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the MLflow server did not start:\n{log.read_text()[-3000:]}")


def kill(server):
    """Send kill -9 to the server and its worker processes."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
