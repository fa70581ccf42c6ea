import ray.train
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from pipeline.train.failures import to_training_error

TRACEBACK = "Traceback (most recent call last):\n  File 'worker.py'\nmany more lines"


def test_a_workers_message_is_shown_without_tracebacks():
    failure = ray.train.WorkerGroupError(
        TRACEBACK, {0: UserExceptionWithTraceback(ValueError("no weights at a.pth"), TRACEBACK)}
    )
    assert (
        str(to_training_error(failure))
        == "training failed on worker 0: ValueError: no weights at a.pth"
    )


def test_the_worker_that_failed_first_comes_before_those_that_lost_its_connection():
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer")
    failure = ray.train.WorkerGroupError(
        TRACEBACK, {0: lost, 1: UserExceptionWithTraceback(MemoryError("out of memory"), TRACEBACK)}
    )
    assert str(to_training_error(failure)).endswith("worker 1: MemoryError: out of memory")


def test_a_failure_of_the_controller_is_shown_too():
    failure = ray.train.ControllerError(TimeoutError("workers did not start"))
    assert "TimeoutError: workers did not start" in str(to_training_error(failure))
