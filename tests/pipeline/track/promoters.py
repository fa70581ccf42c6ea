"""Jobs that promote, in processes of their own; one of them can be killed at a given request."""

import contextlib
import multiprocessing
import time

from mlflow import MlflowClient

from pipeline.track.promotion import Rule, promote

RULE = Rule("segm/AP")
TIMEOUT_S = 600  # a busy machine is slow, not wrong

# Each process is a fork of a server that has imported this module, which takes seconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def promote_in_turn(uri, barrier, races):
    """Promote a version of each (model, number), together with the processes at the barrier."""
    client = MlflowClient(uri, registry_uri=uri)
    for name, number in races:
        version = client.get_model_version(name, number)
        barrier.wait(TIMEOUT_S)
        promote(client, name, version, RULE)


def promote_and_halt(uri, name, number, request, connection):
    """Promote a version, but say so and wait forever in place of the first such request."""
    client = MlflowClient(uri, registry_uri=uri)
    promote(
        _Halting(client, request, connection), name, client.get_model_version(name, number), RULE
    )


class _Halting:
    def __init__(self, client, request, connection):
        self.client, self.request, self.connection = client, request, connection

    def __getattr__(self, name):
        if name == self.request:
            self.connection.send("halted")
            time.sleep(1e6)
        return getattr(self.client, name)


def race(uri, races):
    """Run a process for each list of (model, number); return their exit codes."""
    barrier = processes.Barrier(len(races))
    jobs = [processes.Process(target=promote_in_turn, args=(uri, barrier, each)) for each in races]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return [job.exitcode for job in jobs]


def kill_before(uri, name, number, request):
    """Promote in a process that is killed (SIGKILL) before a request; return its exit code."""
    receiver, sender = processes.Pipe(duplex=False)
    job = processes.Process(target=promote_and_halt, args=(uri, name, number, request, sender))
    job.start()
    with contextlib.ExitStack() as stack:
        stack.callback(job.join)
        stack.callback(job.kill)
        assert receiver.poll(TIMEOUT_S), "it did not come to the request"
    return job.exitcode
