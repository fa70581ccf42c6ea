"""A worker without progress is named and ended, also when its main thread hangs for good."""

import logging
import subprocess
import sys

import pytest

from pipeline.train.stall_watch import STALLED_EXIT_CODE, StallWatch

# Takes two steps and then waits for the third batch for good.
STALLED_TRAINING = """
import logging, sys, threading
import torch
from pipeline.config import OptimizerConfig
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.optimizer import build_optimizer
from pipeline.train.precision import Precision
from pipeline.train.stall_watch import StallWatch
from tests.pipeline.train.toy_training import CPU, GLOBAL_BATCH, STEPS, ToyDetector, stream

logging.basicConfig(stream=sys.stdout)

def two_batches_and_no_more():
    batches = stream(0)
    yield next(batches)
    yield next(batches)
    threading.Event().wait()

toy = ToyDetector()
with StallWatch(3, limit_s=1.0) as watch:
    TrainingLoop(
        toy,
        build_optimizer(toy, OptimizerConfig()),
        lambda step: 0.01,
        Precision("fp32", CPU),
        CPU,
        LoopPlan(0, STEPS, GLOBAL_BATCH),
        LoopHooks(activity=watch.now),
    ).run(two_batches_and_no_more())
"""


class Process:
    def __init__(self, limit_s):
        self.time_s = 0.0
        self.exits = []
        self.watch = StallWatch(
            rank=2, limit_s=limit_s, clock=lambda: self.time_s, end=self.exits.append
        )
        # The first step is not watched.
        self.watch.now("computing", 0)

    def is_ended_after(self, activity, seconds):
        self.watch.now(activity, 7)
        self.time_s += seconds
        self.watch.check()
        return self.exits == [STALLED_EXIT_CODE]


def test_waiting_for_data_ends_the_process_at_the_limit():
    assert not Process(limit_s=60).is_ended_after("waiting for data", 59)
    assert Process(limit_s=60).is_ended_after("waiting for data", 61)


def test_a_worker_that_may_wait_for_a_stalled_one_ends_after_it():
    assert not Process(limit_s=60).is_ended_after("computing", 119)
    assert Process(limit_s=60).is_ended_after("computing", 121)


def test_a_validation_may_take_any_time():
    assert not Process(limit_s=60).is_ended_after("paused", 100_000)


def test_without_a_limit_nothing_ends():
    assert not Process(limit_s=None).is_ended_after("computing", 100_000)


def test_the_first_step_of_a_process_may_take_any_time():
    process = Process(limit_s=60)
    process.time_s += 100_000
    process.watch.check()
    assert process.exits == []


def test_the_message_names_the_worker_its_machine_and_its_place_in_the_code(caplog):
    with caplog.at_level(logging.ERROR, "pipeline"):
        Process(limit_s=60).is_ended_after("waiting for data", 61)
    (message,) = caplog.messages
    assert "worker 2 on " in message
    assert "waiting for data for 1 minutes in step 8" in message
    assert "in is_ended_after" in message


@pytest.mark.timeout(120)
def test_a_process_that_hangs_for_good_ends_and_says_where():
    run = subprocess.run(
        [sys.executable, "-c", STALLED_TRAINING], capture_output=True, text=True, timeout=100
    )
    assert run.returncode == STALLED_EXIT_CODE, run.stderr
    assert "worker 3 on " in run.stdout
    assert "in step 3" in run.stdout
    assert "two_batches_and_no_more" in run.stdout
