"""A training in epochs takes the steps of its dataset, and says both."""

import logging

import pytest

from pipeline.config import DataConfig, RunConfig
from pipeline.stream.shard_plan import images_of_epoch, plan_shards
from pipeline.train.training_length import log_length, planned_steps, settle_schedule
from tests.pipeline.stream.manifests import manifest_of, manifest_with_classes

# 22 images: 5 batches of 4, and 2 left over.
MANIFEST = manifest_of([[[0] * 10, [0] * 4], [[0] * 8]])


def config_of(**train):
    return RunConfig.model_validate({"train": {"global_batch": 4, **train}})


def test_an_epoch_shows_each_image_at_most_once():
    config = settle_schedule(config_of(schedule={"epochs": 3}), MANIFEST)
    plan = plan_shards(MANIFEST, 4, config.seed)
    assert config.train.schedule.steps == sum(len(images_of_epoch(plan, n)) for n in range(3)) == 15


def test_an_epoch_has_the_images_that_are_left_and_their_repeats(caplog):
    """Of 20 images 8 have no objects; class 2, in one of 12, is seen sqrt(12) times at t = 1."""
    manifest = manifest_with_classes([[1, 2], *[[1]] * 11, *[[]] * 8])
    data = {"images_without_objects": "drop", "repeat_threshold": 1.0}
    with caplog.at_level(logging.INFO):
        for settings, steps in (({}, 5), (data, 15 // 4)):
            config = config_of(schedule={"epochs": 1}).model_copy(
                update={"data": DataConfig(**settings)}
            )
            settled = settle_schedule(config, manifest)
            assert settled.train.schedule.steps == steps
            log_length(settled, manifest)
    assert [text for text in caplog.messages if " steps of " in text] == [
        "5 steps of 4 images: 1 epochs of 5 steps, on 20 images",
        "3 steps of 4 images: 1 epochs of 3 steps, on 12 images",
    ]


def test_validations_can_be_epochs_apart():
    for epochs, steps in ((1, 5), (2.5, 12), (0.01, 1)):
        settled = settle_schedule(config_of(validate_every_epochs=epochs), MANIFEST)
        assert settled.train.validate_every == steps


def test_epochs_of_a_dataset_smaller_than_a_batch_have_one_step():
    config = config_of(global_batch=64, schedule={"epochs": 5, "milestones_epochs": [3]})
    settled = settle_schedule(config, MANIFEST)
    assert (settled.train.schedule.steps, settled.train.schedule.milestones) == (5, (3,))
    assert settled.train.schedule.warmup_steps == 1


def test_half_the_batch_takes_twice_the_steps_at_half_the_rate():
    recipe = {"recipe_batch": 4, "optimizer": {"lr": 1.0}, "schedule": {"epochs": 4}}
    for batch, lr, steps in [(4, 1.0, 20), (2, 0.5, 44)]:
        train = settle_schedule(config_of(**recipe, global_batch=batch), MANIFEST).train
        assert (train.optimizer.lr, train.schedule.steps) == (lr, steps)


def test_settling_twice_equals_settling_once():
    schedule = {"epochs": 3.3, "milestones_epochs": [1.1, 2.2]}
    once = settle_schedule(config_of(recipe_batch=2, schedule=schedule), MANIFEST)
    assert settle_schedule(once, MANIFEST) == once


def test_a_training_in_steps_needs_no_shards_to_know_its_length():
    assert planned_steps(config_of(recipe_batch=8, schedule={"steps": 10})) == 20
    with pytest.raises(FileNotFoundError):
        planned_steps(config_of(schedule={"epochs": 2}))


def test_the_log_says_steps_and_epochs(caplog):
    with caplog.at_level(logging.INFO):
        log_length(settle_schedule(config_of(schedule={"epochs": 2.5}), MANIFEST), MANIFEST)
    assert caplog.messages == ["12 steps of 4 images: 2.4 epochs of 5 steps, on 22 images"]


def test_what_is_never_reached_is_a_warning(caplog):
    schedule = {"epochs": 1, "milestones_epochs": [8, 11]}
    config = settle_schedule(config_of(schedule=schedule), MANIFEST)
    with caplog.at_level(logging.WARNING):
        log_length(config, MANIFEST)
    [warning] = caplog.messages
    assert "the milestones 40, 55 are never reached" in warning
    assert "the warm-up of 5 steps never ends" in warning
