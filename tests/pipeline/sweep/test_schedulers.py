"""Schedulers stop weak trials, also compared with those of earlier submissions."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from pipeline.shards.manifest import read_manifest
from pipeline.stream.shard_plan import plan_shards
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.schedulers import build_scheduler
from tests.pipeline.sweep.sweep_config import BATCH, LR, sweep_config

M = "val/segm/AP"
TRAIN = {"global_batch": 4, "workers": 1, "schedule": {"steps": 80}}
SPACE = {LR: {"kind": "uniform", "low": 0.1, "high": 0.2}}


def earlier(number, value, status="finished"):
    history = tuple((images, value) for images in range(40, 361, 40))
    return TrialRecord(f"{number:04d}", {}, status, history=history)


class NewTrial:
    trial_id = "new"


def decide(scheduler, value, images):
    trial = NewTrial()
    scheduler.on_trial_add(None, trial)
    controller = SimpleNamespace(get_live_trials=list)
    return scheduler.on_trial_result(controller, trial, {"images_seen": images, M: value})


def test_grace_period_and_end_are_counted_in_images():
    config = sweep_config({}, train={"global_batch": 4, "recipe_batch": 16, "workers": 1})
    scheduler = build_scheduler(config, ())
    # 90,000 steps of the recipe's 16 images; a grace period of 7 steps of 4 images.
    assert scheduler._max_t == 90_000 * 16
    assert min(rung for rung, _ in scheduler._brackets[0]._rungs) == 28


def test_the_end_is_counted_in_images_of_the_shards(shapes_shards):
    train = {"workers": 1, "global_batch": 2, "schedule": {"epochs": 3}}
    config = sweep_config({}, train=train, data={"train_shards": shapes_shards})
    steps = 3 * plan_shards(read_manifest(shapes_shards), 2, seed=0).steps_per_epoch
    assert build_scheduler(config, ())._max_t == steps * 2 > 20


@pytest.mark.parametrize("scheduler", ["asha", "median"])
@pytest.mark.parametrize(
    ("value", "decision"), [(0.1, TrialScheduler.STOP), (0.9, TrialScheduler.CONTINUE)]
)
def test_a_new_trial_is_compared_with_those_of_earlier_submissions(scheduler, value, decision):
    config = sweep_config(SPACE, {"scheduler": scheduler, "grace_steps": 10}, train=TRAIN)
    settled = [earlier(n, 0.3 + n / 10, "stopped" if n else "finished") for n in range(4)]
    assert decide(build_scheduler(config, settled), value, 40) == decision
    # Without them there is nothing to compare with.
    assert decide(build_scheduler(config, ()), value, 40) == TrialScheduler.CONTINUE


def test_without_a_scheduler_no_trial_is_stopped():
    config = sweep_config(SPACE, {"scheduler": "none"}, train=TRAIN)
    scheduler = build_scheduler(config, [earlier(n, 0.5) for n in range(4)])
    assert decide(scheduler, 0.0, 40) == TrialScheduler.CONTINUE


def test_pbt_changes_values_within_the_space():
    space = {
        LR: {"kind": "log_uniform", "low": 0.1, "high": 0.2},
        "train.optimizer.clip_norm": {"kind": "uniform", "low": 0, "high": 10, "q": 5},
        "data.flip_probability": {"kind": "choice", "values": [0.0, 0.5]},
    }
    scheduler = build_scheduler(sweep_config(space, {"scheduler": "pbt"}, train=TRAIN), ())
    values = {LR: 0.19, "train.optimizer.clip_norm": 10.0, "data.flip_probability": 0.5}
    donor = SimpleNamespace(config={"trial": "0001", "values": values, "weights": None})
    seen = [scheduler._get_new_config(None, donor)[0]["values"] for _ in range(100)]
    assert all(0.1 <= each[LR] <= 0.2 for each in seen)
    assert {each["train.optimizer.clip_norm"] for each in seen} <= {0.0, 5.0, 10.0}
    assert {each["data.flip_probability"] for each in seen} == {0.0, 0.5}
    assert len({each[LR] for each in seen}) > 5


def test_pbt_decides_at_its_own_interval():
    sweep = {"scheduler": "pbt", "pbt": {"every_steps": 20}}
    scheduler = build_scheduler(sweep_config(SPACE, sweep, train=TRAIN), ())
    assert scheduler._perturbation_interval == 80
    assert BATCH not in scheduler._hyperparam_mutations["values"]
