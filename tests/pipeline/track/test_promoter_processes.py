"""Promotion by real processes: raced, and killed between the decision and what follows from it."""

import signal
import uuid

import pytest

from pipeline.track.promotion import promote
from pipeline.track.promotion_record import PENDING, PROMOTION_TAG
from tests.pipeline.track.promoters import RULE, kill_before, race
from tests.pipeline.track.test_promotion_stores import RACES, champion_value, new_version


@pytest.fixture
def new_model(registry):
    """A function that creates a registered model and returns its name."""

    def create():
        name = f"processes-{uuid.uuid4().hex[:8]}"
        registry.create_registered_model(name)
        return name

    return create


@pytest.mark.soak
def test_the_better_of_two_processes_that_promote_at_once_is_the_champion(registry, new_model):
    names = [new_model() for _ in range(RACES)]
    values = [(0.3, 0.4) if number % 2 else (0.4, 0.3) for number in range(RACES)]
    for number, name in enumerate(names):
        if number % 3:
            promote(registry, name, new_version(registry, name, 0.25), RULE)
    races = [
        [
            (name, new_version(registry, name, each[job]).version)
            for name, each in zip(names, values, strict=True)
        ]
        for job in (0, 1)
    ]
    assert race(registry.tracking_uri, races) == [0, 0]
    assert [champion_value(registry, name) for name in names] == [0.4] * RACES
    for name in names:
        versions = registry.search_model_versions(f"name='{name}'")
        assert PENDING not in {version.tags[PROMOTION_TAG] for version in versions}


@pytest.mark.parametrize(
    ("request_name", "is_marked"),
    [
        # it has decided, and written nothing
        pytest.param("set_model_version_tag", False, marks=pytest.mark.soak),
        # it is pending, and the alias is where it was
        pytest.param("set_registered_model_alias", True, marks=pytest.mark.soak),
        # the alias is moved, and the decision is not recorded
        ("update_model_version", True),
    ],
)
def test_the_next_job_repairs_what_a_process_left_that_was_killed(
    registry, new_model, request_name, is_marked
):
    name = new_model()
    promote(registry, name, new_version(registry, name, 0.1), RULE)
    best = new_version(registry, name, 0.4)
    exit_code = kill_before(registry.tracking_uri, name, best.version, request_name)
    assert exit_code == -signal.SIGKILL
    tags = registry.get_model_version(name, best.version).tags
    assert (PROMOTION_TAG in tags) == is_marked
    next_job = promote(registry, name, new_version(registry, name, 0.3), RULE)
    assert (next_job.promoted, champion_value(registry, name)) == (
        (False, 0.4) if is_marked else (True, 0.3)
    )
    again = promote(registry, name, registry.get_model_version(name, best.version), RULE)
    assert (again.promoted, champion_value(registry, name)) == (True, 0.4)
    assert registry.get_model_version(name, best.version).tags[PROMOTION_TAG] == "promoted"
