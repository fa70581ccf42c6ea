"""The learning rate follows Detectron's schedule and scales linearly with the batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import OptimizerConfig, ScheduleConfig, TrainConfig
from pipeline.train.schedule import learning_rate, scale_recipe

DETECTRON_1X = ScheduleConfig()


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.02 / 3),
        (250, 0.02 * 2 / 3),
        (500, 0.02),
        (59_999, 0.02),
        (60_000, 0.002),
        (79_999, 0.002),
        (80_000, 0.0002),
        (89_999, 0.0002),
    ],
)
def test_multistep_follows_detectrons_1x_schedule(step, lr):
    assert learning_rate(step, 0.02, DETECTRON_1X) == pytest.approx(lr, rel=1e-12)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.0), (5, 0.5), (10, 1.0), (60, 0.5), (110, 0.0)])
def test_cosine_rises_linearly_and_falls_to_zero_at_the_end(step, factor):
    schedule = ScheduleConfig(kind="cosine", steps=110, warmup_steps=10, warmup_factor=0.0)
    assert learning_rate(step, 4.0, schedule) == pytest.approx(4.0 * factor, abs=1e-12)


@given(
    kind=st.sampled_from(["multistep", "cosine"]),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 100),
    step=st.integers(0, 600),
)
def test_the_learning_rate_lies_between_zero_and_the_base_rate(kind, steps, warmup, step):
    schedule = ScheduleConfig(kind=kind, steps=steps, milestones=(30, 60), warmup_steps=warmup)
    assert 0.0 <= learning_rate(step, 0.1, schedule) <= 0.1


def test_half_the_batch_gives_half_the_rate_and_twice_the_steps():
    scaled = scale_recipe(TrainConfig(global_batch=8, recipe_batch=16))
    assert scaled.optimizer.lr == 0.01
    assert scaled.schedule.steps == 180_000
    assert scaled.schedule.milestones == (120_000, 160_000)
    assert scaled.schedule.warmup_steps == 1000


def test_scaling_changes_nothing_else():
    train = TrainConfig(global_batch=8, recipe_batch=16)
    scaled = scale_recipe(train)
    kept = {"optimizer": {"lr"}, "schedule": {"steps", "milestones", "warmup_steps"}}
    exclude = {**kept, "recipe_batch": True}
    assert scaled.model_dump(exclude=exclude) == train.model_dump(exclude=exclude)


def test_scaling_twice_equals_scaling_once():
    once = scale_recipe(TrainConfig(global_batch=4, recipe_batch=16))
    assert scale_recipe(once) == once


def test_without_a_recipe_batch_the_settings_are_unchanged():
    train = TrainConfig(global_batch=3, optimizer=OptimizerConfig(lr=0.5))
    assert scale_recipe(train) == train


@given(batch=st.integers(1, 64), recipe=st.integers(1, 64))
def test_scaling_keeps_the_number_of_images_seen(batch, recipe):
    scaled = scale_recipe(TrainConfig(global_batch=batch, recipe_batch=recipe))
    # Steps are whole numbers: half a step of rounding.
    assert abs(scaled.schedule.steps * batch - 90_000 * recipe) <= batch / 2
