"""Promotion on SQLite and PostgreSQL: better, worse, equal, raced, killed and rolled back."""

import os
import threading
import uuid
from types import SimpleNamespace

import pytest

from pipeline.track import manual_promotion
from pipeline.track.promotion import Rule, promote, tag_measurement
from pipeline.track.promotion_record import PENDING, PROMOTION_TAG
from pipeline.track.promotion_rules import Finding
from tests.pipeline.track.interleaving import Interleaved, Killed, KilledError, Turns

METRIC = "segm/AP"
RULE = Rule(METRIC)
DATASET, OTHER_DATASET = "d" * 64, "e" * 64
RACES = int(os.environ.get("RACES", "8"))


@pytest.fixture
def name(registry):
    """Name of a fresh registered model."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    registry.create_registered_model(name)
    return name


def new_version(client, name, value, dataset=DATASET):
    tags = {"dataset_digest": dataset}
    if value is not None:
        tags[f"metric/{METRIC}"] = repr(value)
    return client.create_model_version(name, source="/nowhere", tags=tags)


def aliases(client, name):
    return {alias: str(v) for alias, v in client.get_registered_model(name).aliases.items()}


def champion_value(client, name):
    version = client.get_model_version(name, aliases(client, name)["champion"])
    return float(version.tags[f"metric/{METRIC}"])


def race(client, name, values, seed):
    """Promote a version of each value at the same moment; return their outcomes."""
    versions = [new_version(client, name, value) for value in values]
    turns = Turns(len(versions), seed)
    outcomes = {}

    def run(index):
        try:
            interleaved = Interleaved(client, turns, index)
            outcomes[index] = promote(interleaved, name, versions[index], RULE)
        finally:
            turns.leave()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(versions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [outcomes[index] for index in range(len(versions))]


def test_a_better_version_is_promoted_a_worse_or_equal_one_is_a_candidate(registry, name):
    outcomes = [
        promote(registry, name, new_version(registry, name, value), RULE)
        for value in (0.30, 0.20, 0.30, 0.31, None, -1.0, float("nan"))
    ]
    assert [each.promoted for each in outcomes] == [True, False, False, True, False, False, False]
    assert [each.champion for each in outcomes] == ["1", "1", "1", "4", "4", "4", "4"]
    assert outcomes[1].reasons_against == ("segm/AP 0.2000 does not beat 0.3000 of champion 1",)
    assert outcomes[3].reasons_for == ("segm/AP 0.3100 beats 0.3000 of champion 1",)
    assert outcomes[4].reason == "segm/AP could not be measured"
    # The last version that could have become champion, but did not.
    assert aliases(registry, name) == {"champion": "4", "previous": "1"}
    worse = promote(registry, name, new_version(registry, name, 0.1), RULE)
    assert aliases(registry, name)["candidate"] == worse.version == "8"


def test_the_decision_its_reasons_and_who_made_it_stay_with_the_version(registry, name):
    promote(registry, name, new_version(registry, name, 0.3), RULE)
    further = [Finding(True, "as fast"), Finding(False, "class star is worse")]
    refused = promote(registry, name, new_version(registry, name, 0.4), RULE, lambda _: further)
    assert not refused.promoted
    assert refused.reason == "class star is worse"
    stored = registry.get_model_version(name, refused.version)
    assert stored.tags[PROMOTION_TAG] == "refused"
    beats = "segm/AP 0.4000 beats 0.3000 of champion 1"
    assert stored.tags["promotion_for"] == f"{beats}; as fast"
    assert stored.tags["promotion_against"] == "class star is worse"
    assert " on " in stored.tags["decided_by"]
    assert stored.tags["decided_at"].endswith("UTC")
    assert stored.description == (
        "**Not promoted**: class star is worse\n\n"
        f"For:\n\n- {beats}\n- as fast\n\nAgainst:\n\n- class star is worse"
    )


def test_a_margin_and_a_minimum_are_kept(registry, name):
    rule = Rule(METRIC, minimum=0.2, margin=0.05)
    low = promote(registry, name, new_version(registry, name, 0.19), rule)
    assert low.reason == "segm/AP 0.1900 is below track.champion_minimum 0.2"
    values = (0.2, 0.25, 0.2501, 0.29)
    outcomes = [
        promote(registry, name, new_version(registry, name, value), rule) for value in values
    ]
    assert [each.promoted for each in outcomes] == [True, False, True, False]


def test_a_champion_of_other_data_is_measured_on_this_data_first(registry, name):
    promote(registry, name, new_version(registry, name, 0.9, OTHER_DATASET), RULE)
    alone = promote(registry, name, new_version(registry, name, 0.5), RULE)
    assert not alone.promoted
    assert "champion 1 was not measured on this dataset" in alone.reason

    def measure(champion):
        tag_measurement(registry, name, str(champion.version), DATASET, METRIC, 0.4)
        return []

    measured = promote(registry, name, new_version(registry, name, 0.45), RULE, measure)
    assert (measured.promoted, measured.champion_metric_value) == (True, 0.4)
    assert measured.reasons_for == ("segm/AP 0.4500 beats 0.4000 of champion 1",)


def test_the_best_is_champion_after_every_order_of_the_requests(registry):
    for seed in range(RACES):
        name = f"race-{uuid.uuid4().hex[:8]}"
        registry.create_registered_model(name)
        if seed % 2:
            promote(registry, name, new_version(registry, name, 0.25), RULE)
        values = [0.3, 0.4] if seed % 3 else [0.4, 0.3, 0.5]
        outcomes = race(registry, name, values, seed)
        assert champion_value(registry, name) == max(values), seed
        assert outcomes[values.index(max(values))].promoted, seed
        assert PENDING not in {
            version.tags[PROMOTION_TAG]
            for version in registry.search_model_versions(f"name='{name}'")
        }


def test_jobs_with_different_data_end_with_one_of_them_as_champion(registry):
    """Each measures what the other has promoted meanwhile, so that they do not fight forever."""
    own = {DATASET: 0.4, OTHER_DATASET: 0.5}
    for seed in range(3):
        name = f"data-{uuid.uuid4().hex[:8]}"
        registry.create_registered_model(name)
        versions = {data: new_version(registry, name, value, data) for data, value in own.items()}
        turns, outcomes = Turns(2, seed), {}

        def run(index, data, turns=turns, name=name, versions=versions, outcomes=outcomes):
            client = Interleaved(registry, turns, index)

            def measure(champion):
                tag_measurement(client, name, str(champion.version), data, METRIC, 0.45)
                return []

            try:
                outcomes[data] = promote(client, name, versions[data], RULE, measure)
            finally:
                turns.leave()

        threads = [threading.Thread(target=run, args=(n, data)) for n, data in enumerate(own)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes[OTHER_DATASET].promoted, seed
        assert aliases(registry, name)["champion"] == outcomes[OTHER_DATASET].version, seed


def test_the_next_job_finishes_what_a_killed_one_began(registry):
    """Killed after any number of requests, it leaves a registry that the next jobs make right."""
    marked = []
    for after in range(1, 40, 3):
        name = f"killed-{uuid.uuid4().hex[:8]}"
        registry.create_registered_model(name)
        promote(registry, name, new_version(registry, name, 0.1), RULE)
        best = new_version(registry, name, 0.4)
        try:
            promote(Killed(registry, after), name, best, RULE)
        except KilledError:
            is_marked = PROMOTION_TAG in registry.get_model_version(name, best.version).tags
            marked.append(is_marked)
        else:
            break
        promote(registry, name, new_version(registry, name, 0.3), RULE)
        assert champion_value(registry, name) == (0.4 if is_marked else 0.3), after
        # The killed job, submitted again.
        again = promote(registry, name, registry.get_model_version(name, best.version), RULE)
        assert (again.promoted, champion_value(registry, name)) == (True, 0.4), after
    assert {True, False} == set(marked)


def test_an_alias_that_someone_moved_back_stays_until_a_better_version_comes(registry, name):
    old = new_version(registry, name, 0.3)
    promote(registry, name, old, RULE)
    promote(registry, name, new_version(registry, name, 0.6), RULE)
    registry.set_registered_model_alias(name, "champion", old.version)
    assert not promote(registry, name, new_version(registry, name, 0.2), RULE).promoted
    assert champion_value(registry, name) == 0.3
    assert promote(registry, name, new_version(registry, name, 0.5), RULE).promoted
    assert champion_value(registry, name) == 0.5


def test_a_rollback_is_kept_when_the_version_is_registered_again(registry, name, monkeypatch):
    versions = [new_version(registry, name, value) for value in (0.3, 0.4)]
    for version in versions:
        promote(registry, name, version, RULE)
    monkeypatch.setattr(manual_promotion, "open_store", lambda _config: registry)
    track = SimpleNamespace(model_name=name, because="false alarms")
    moved = manual_promotion.roll_back(SimpleNamespace(track=track))
    assert (moved.version, aliases(registry, name)["champion"]) == ("1", "1")
    left = promote(registry, name, registry.get_model_version(name, "2"), RULE)
    assert (left.promoted, left.champion) == (False, "1")
    assert "it was rolled back" in left.reason
    assert aliases(registry, name) == {"champion": "1", "previous": "2"}
