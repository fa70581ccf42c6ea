import ray.train
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from pipeline.train.failures import training_error

TRACES = "Traceback (most recent call last):\n  File 'worker.py'\nsome wall of text"


def test_a_workers_own_message_is_shown_without_traces():
    failure = ray.train.WorkerGroupError(
        TRACES, {0: UserExceptionWithTraceback(ValueError("no weights at a.pth"), TRACES)}
    )
    assert (
        str(training_error(failure))
        == "training failed on worker 0: ValueError: no weights at a.pth"
    )


def test_the_worker_where_it_began_comes_before_those_that_lost_it():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    failure = ray.train.WorkerGroupError(
        TRACES, {0: lost, 1: UserExceptionWithTraceback(MemoryError("out of memory"), TRACES)}
    )
    assert str(training_error(failure)).endswith("worker 1: MemoryError: out of memory")


def test_a_failure_of_the_controller_is_named_too():
    failure = ray.train.ControllerError(TimeoutError("workers did not start"))
    assert "TimeoutError: workers did not start" in str(training_error(failure))
