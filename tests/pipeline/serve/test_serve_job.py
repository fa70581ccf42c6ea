"""The job as a user runs it: it starts, answers, and ends when it is told to."""

import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

from tests.conftest import ROOT
from tests.pipeline.serve.bad_requests import GOOD

SCRIPT = str(ROOT / "workflows" / "serve.py")
WAIT_S = 120


@pytest.fixture
def config_file(run_config, tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(run_config.model_dump(mode="json")))
    return str(path)


@pytest.fixture
def run_job(monkeypatch, capsys):
    """A function: arguments -> exit status and stderr of the job, run in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [SCRIPT, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(SCRIPT, run_name="__main__")
        return int(ended.value.code), capsys.readouterr().err

    return run


def test_a_port_in_use_is_one_line_and_status_2(run_job, config_file, tiny_checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, errors = run_job(
            config_file, f"serve.model={tiny_checkpoint}", f"serve.port={port}"
        )
    assert status == 2
    assert errors.splitlines()[-1].startswith(f"serve.py: port {port} of 127.0.0.1 is in use; ")
    assert "Traceback" not in errors


def test_a_model_that_is_not_there_is_one_line_and_status_1(run_job, config_file):
    status, errors = run_job(config_file, "serve.model=/nowhere", "serve.port=0")
    assert status == 1
    assert errors.splitlines()[-1].startswith("serve.py: /nowhere: no such file or folder")
    status, errors = run_job(config_file, "serve.port=0")
    assert status == 1
    assert re.match(r"serve\.py: there is no model .*@champion", errors.splitlines()[-1])


def test_a_wrong_setting_is_refused(run_job, config_file):
    status, errors = run_job(config_file, "serve.prot=8000")
    assert (status, errors.splitlines()[-1]) == (
        2,
        "  serve.prot: unknown key; did you mean serve.port?",
    )


@pytest.mark.ray
def test_sigterm_ends_the_job_after_the_requests_in_progress(
    ray_cluster, config_file, tiny_checkpoint, send, tmp_path
):
    log = tmp_path / "log"
    joins = {
        "RAY_ADDRESS": ray_cluster.get_runtime_context().gcs_address,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "OMP_NUM_THREADS": "1",
    }
    settings = [f"serve.model={tiny_checkpoint}", "serve.port=0", "serve.min_score=0"]
    with log.open("wb") as sink:
        job = subprocess.Popen(
            [sys.executable, SCRIPT, config_file, *settings],
            env={**os.environ, **joins},
            stdout=sink,
            stderr=sink,
        )
    try:
        url = wait_for_line(job, log, r"answering at (http://127\.0\.0\.1:\d+) with ")
        assert send(f"{url}/ready").content["model"] == str(tiny_checkpoint)
        host, port = url.removeprefix("http://").split(":")
        started = socket.create_connection((host, int(port)), timeout=60)
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        started.sendall(head.encode() + GOOD[:-1])
        time.sleep(0.5)  # the server has the head
        job.send_signal(signal.SIGTERM)
        threading.Timer(1.0, started.sendall, (GOOD[-1:],)).start()
        assert b"200 OK" in started.recv(1000)
        started.close()
        assert job.wait(WAIT_S) == 0, log.read_text()
    finally:
        job.kill()
        job.wait()
    lines = log.read_text().splitlines()
    assert "stopping; requests in progress are finished" in "\n".join(lines)
    assert re.fullmatch(r"stopped after \d+ s", lines[-1])
    assert "Traceback" not in "\n".join(lines)


def wait_for_line(job, log, pattern):
    """Return the group of a pattern as soon as a line of the log has it."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and job.poll() is None:
        if found := re.search(pattern, log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(log.read_text())
