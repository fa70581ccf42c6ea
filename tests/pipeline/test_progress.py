"""Progress is shown while nothing is finished yet, as lines and as a bar."""

import logging
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.console import show_logs, show_worker_logs
from pipeline.progress import Progress, show_progress

ROOT = Path(__file__).resolve().parent.parent.parent


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_progress_has_counts_rate_and_time_left():
    clock = Clock()
    progress = Progress(100, "images", clock)
    clock.now = 12.0
    assert str(progress) == "0 of 100 images after 12s"
    progress.restart_clock()
    progress.add(20)
    clock.now = 16.0
    assert str(progress) == "20 of 100 images, 5.0 images/s, 16s left"
    progress.add(80)
    clock.now = 32.0
    assert str(progress) == "100 of 100 images in 20s, 5.0 images/s"


def test_progress_without_anything_to_do_is_no_error():
    assert str(Progress(0, "images", Clock())) == "0 of 0 images after 0s"


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_lines_appear_while_nothing_is_finished(caplog):
    with show_logs(), show_progress("predicting", 3, "images", interval_s=0.02) as progress:
        wait_for(lambda: "predicting: 0 of 3 images after" in caplog.text)
        progress.add(2)
        wait_for(lambda: "predicting: 2 of 3 images, " in caplog.text)
        progress.add(1)
    assert caplog.messages[-1].startswith("predicting: 3 of 3 images in ")


def test_a_failed_activity_is_not_reported_as_ended(caplog):
    with (
        pytest.raises(ZeroDivisionError),
        show_logs(),
        show_progress("predicting", 3, "images"),
    ):
        raise ZeroDivisionError
    assert not caplog.messages


def test_log_lines_have_the_time_and_warnings_say_so(capsys):
    with show_logs():
        logging.getLogger("pipeline.train").info("loading %s", "[weights]")
        logging.getLogger("model").warning("slow" * 100)
    logging.getLogger("pipeline.train").info("after the job")
    first, second = capsys.readouterr().err.splitlines()
    assert first[8:] == " loading [weights]"
    assert second[8:] == f" warning: {'slow' * 100}"


def test_the_lines_of_a_task_go_to_stdout_which_ray_forwards(capsys):
    with show_worker_logs():
        logging.getLogger("pipeline.train").info("loading")
    assert capsys.readouterr().out == "loading\n"


JOB = """
import logging, time
from pipeline.console import show_logs
from pipeline.progress import show_progress
with show_logs(), show_progress("predicting", 4, "images") as progress:
    progress.add(3)
    logging.getLogger("pipeline").info("a line above the bar")
    print("a line of a worker")
    time.sleep(1)
    progress.add(1)
"""


def test_a_terminal_shows_a_bar_below_the_log_lines():
    master, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    job = subprocess.Popen(
        [sys.executable, "-c", JOB], cwd=ROOT, env=environment, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the job has ended
            break
    os.close(master)
    assert job.wait() == 0, shown
    text = shown.decode()
    assert "a line above the bar" in text
    assert "a line of a worker" in text
    assert "━" in text
    assert "3 of 4 images, " in text
    assert "predicting: 4 of 4 images in " in text
