"""Clients of a registry whose requests wait for their turn, or end as those of a killed job."""

import random
import threading
from dataclasses import dataclass

from mlflow import MlflowClient

REQUESTS = (
    "set_model_version_tag",
    "search_model_versions",
    "get_registered_model",
    "get_model_version",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "update_model_version",
)


class Turns:
    """Lets one thread at a time send a request, in a random order that a seed decides."""

    def __init__(self, count, seed):
        self.rng = random.Random(seed)
        self.waiting = set()
        self.running = count
        self.changed = threading.Condition()
        self.next = None

    def wait(self, thread):
        with self.changed:
            self.waiting.add(thread)
            self._choose()
            self.changed.wait_for(lambda: self.next == thread)
            self.waiting.discard(thread)
            self.next = None

    def leave(self):
        with self.changed:
            self.running -= 1
            self._choose()

    def _choose(self):
        """Choose once all threads wait, so that the order does not depend on their speed."""
        if self.waiting and len(self.waiting) == self.running and self.next is None:
            self.next = self.rng.choice(sorted(self.waiting))
            self.changed.notify_all()


@dataclass
class Interleaved:
    """A client whose requests wait for their turn."""

    client: MlflowClient
    turns: Turns
    thread: int

    def __getattr__(self, name):
        request = getattr(self.client, name)
        assert name in REQUESTS

        def send(*arguments):
            self.turns.wait(self.thread)
            return request(*arguments)

        return send


class KilledError(Exception):
    pass


@dataclass
class Killed:
    """A client of a job that is killed after some requests."""

    client: MlflowClient
    after: int
    sent: int = 0

    def __getattr__(self, name):
        self.sent += 1
        if self.sent > self.after:
            raise KilledError
        return getattr(self.client, name)
