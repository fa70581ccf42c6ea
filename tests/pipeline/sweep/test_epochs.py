"""Sweeps over trainings in epochs: each trial takes the steps of its own batch size."""

from types import SimpleNamespace

import pytest

from pipeline.shards.manifest import read_manifest
from pipeline.stream.shard_plan import plan_shards
from pipeline.sweep.driver import early_stopping
from pipeline.sweep.results import summarize_trial
from tests.pipeline.sweep.sweep_config import sweep_config

BATCH = "train.global_batch"


@pytest.fixture
def config(shapes_shards):
    train = {"workers": 1, "global_batch": 2, "schedule": {"epochs": 3}}
    return sweep_config({}, train=train, data={"train_shards": shapes_shards})


def steps(shards, batch, epochs=3):
    return epochs * plan_shards(read_manifest(shards), batch, seed=0).steps_per_epoch


def test_the_end_is_counted_in_images_of_the_shards(config, shapes_shards):
    assert early_stopping(config)._max_t == steps(shapes_shards, 2) * 2 > 20


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("missing", [0, 1])
def test_a_trial_was_stopped_early_if_steps_of_its_epochs_are_missing(
    config, shapes_shards, batch, missing
):
    taken = steps(shapes_shards, batch) - missing
    result = SimpleNamespace(
        metrics={"trial_id": "t", "step": taken}, config={BATCH: batch}, path="t", error=None
    )
    assert summarize_trial(result, config).stopped_early is bool(missing)
