"""Jobs that promote at the same moment leave the best version as champion, whoever is slower."""

import random
import threading
from dataclasses import dataclass

import pytest
from mlflow import MlflowClient

from pipeline.track.promotion import CHAMPION, PENDING, PROMOTION_TAG, promote

METRIC = "segm/AP"
DATASET = "d" * 64
REQUESTS = (
    "set_model_version_tag",
    "search_model_versions",
    "get_registered_model",
    "get_model_version",
    "set_registered_model_alias",
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


def new_version(client, name, value, dataset=DATASET):
    tags = {"dataset_digest": dataset, f"metric/{METRIC}": repr(value)}
    return client.create_model_version(name, source="/nowhere", tags=tags)


def champion(client, name):
    number = client.get_registered_model(name).aliases[CHAMPION]
    return float(client.get_model_version(name, number).tags[f"metric/{METRIC}"])


def race(client, name, values, seed):
    """Promote a version of each value at the same moment; return their outcomes."""
    versions = [new_version(client, name, value) for value in values]
    turns = Turns(len(versions), seed)
    outcomes = {}

    def run(index):
        try:
            interleaved = Interleaved(client, turns, index)
            outcomes[index] = promote(interleaved, name, versions[index], METRIC)
        finally:
            turns.leave()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(versions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[index] for index in range(len(versions))]


@pytest.fixture
def client(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return MlflowClient(uri, registry_uri=uri)


def test_the_best_is_champion_after_every_order_of_the_requests(client):
    for seed in range(30):
        name = f"model-{seed}"
        client.create_registered_model(name)
        if seed % 2:
            promote(client, name, new_version(client, name, 0.35), METRIC)
        values = [0.3, 0.4] if seed % 3 else [0.4, 0.2, 0.5]
        outcomes = race(client, name, values, seed)
        assert champion(client, name) == max(values), seed
        best = outcomes[values.index(max(values))]
        assert best.promoted, seed
        assert PENDING not in {
            version.tags[PROMOTION_TAG]
            for version in client.search_model_versions(f"name='{name}'")
        }


def test_the_next_job_finishes_what_a_killed_one_began(client):
    """Killed after any number of requests, it leaves a registry that the next job makes right."""
    for last in range(1, 10):
        name = f"killed-{last}"
        client.create_registered_model(name)
        promote(client, name, new_version(client, name, 0.1), METRIC)

        with pytest.raises(KilledError):
            promote(Killed(client, after=last), name, new_version(client, name, 0.4), METRIC)
        next_job = promote(client, name, new_version(client, name, 0.3), METRIC)
        assert (champion(client, name), next_job.promoted) == (0.4, False)


def test_an_alias_that_someone_moved_back_stays_until_a_better_version_comes(client):
    client.create_registered_model("model")
    old = new_version(client, "model", 0.3)
    promote(client, "model", old, METRIC)
    promote(client, "model", new_version(client, "model", 0.6), METRIC)
    client.set_registered_model_alias("model", CHAMPION, old.version)
    assert not promote(client, "model", new_version(client, "model", 0.2), METRIC).promoted
    assert champion(client, "model") == 0.3
    assert promote(client, "model", new_version(client, "model", 0.5), METRIC).promoted
    assert champion(client, "model") == 0.5


def test_the_decision_and_its_reason_are_tags_of_the_version(client):
    client.create_registered_model("model")
    promote(client, "model", new_version(client, "model", 0.3), METRIC)
    worse = promote(client, "model", new_version(client, "model", 0.2), METRIC)
    tags = client.get_model_version("model", worse.version).tags
    assert tags[PROMOTION_TAG] == "refused"
    assert tags["promotion_reason"] == worse.reason
    assert worse.reason == "segm/AP 0.2000 does not beat 0.3000 of champion 1"
