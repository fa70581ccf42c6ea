"""A detector that follows its alias, and stays with the old version if the new one is unusable."""

import logging

import pytest

from pipeline.serve.followed_model import FollowedModel
from pipeline.track.mlflow_store import TrackingError
from tests.pipeline.serve.registry import CLASS_BIAS


@pytest.fixture
def follow(run_config, registry):
    """A function: start to follow the champion."""
    source = f"models:/{registry.name}@champion"
    serve = run_config.serve.model_copy(update={"model": source})
    return lambda: FollowedModel(run_config.model_copy(update={"serve": serve}), "cpu")


def class_bias(model):
    [bias] = [
        parameter
        for name, parameter in model.predictor.detector.named_parameters()
        if name.endswith(CLASS_BIAS)
    ]
    return bias[0].item()


def test_the_version_of_the_alias_is_loaded_when_it_moves(registry, follow):
    first, second = registry.add(), registry.add(shift=3.0)
    registry.promote(first)
    model = follow()
    old = model.current
    model.look()
    assert model.current is old and old.source == registry.url(first)
    registry.promote(second)
    model.look()
    assert model.current.source == registry.url(second)
    assert class_bias(model.current) == pytest.approx(class_bias(old) + 3.0)
    registry.promote(first)  # a rollback
    model.look()
    assert model.current.source == registry.url(first)


def test_a_version_that_does_not_load_is_logged_and_the_old_one_stays(registry, follow, caplog):
    first, broken, third = registry.add(), registry.add(damaged=True), registry.add()
    registry.promote(first)
    model = follow()
    registry.promote(broken)
    with caplog.at_level(logging.WARNING, "pipeline.serve"):
        for _ in range(4):
            model.look()
    assert model.current.source == registry.url(first)
    [warning] = caplog.messages
    assert warning.startswith(f"{registry.url(broken)} cannot be loaded (")
    assert warning.endswith(f"{registry.url(first)} goes on answering")
    registry.promote(third)
    model.look()
    assert model.current.source == registry.url(third)


def test_a_version_that_did_not_load_is_tried_again(registry, follow):
    first, broken = registry.add(), registry.add(damaged=True)
    registry.promote(first)
    model = follow()
    registry.promote(broken)
    model.look()
    registry.repair(broken)
    looks = 0
    while model.current.source != registry.url(broken) and looks < 5:
        model.look()
        looks += 1
    assert looks == 2  # one is skipped


def test_an_alias_that_disappears_is_logged_once(registry, follow, caplog):
    version = registry.add()
    registry.promote(version)
    model = follow()
    registry.client.delete_registered_model_alias(registry.name, "champion")
    with caplog.at_level(logging.WARNING, "pipeline.serve"):
        model.look()
        model.look()
    [warning] = caplog.messages
    assert f"models:/{registry.name}@champion cannot be looked up" in warning
    assert model.current.source == registry.url(version)


def test_a_first_version_that_is_not_there_is_an_error(follow):
    with pytest.raises(TrackingError, match=r"there is no model .*@champion"):
        follow()
