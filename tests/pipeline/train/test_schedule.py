"""The learning rate follows Detectron's schedule and scales linearly with the batch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.settings import ConfigError, check_settings
from pipeline.config import OptimizerConfig, ScheduleConfig, TrainConfig
from pipeline.train.schedule import (
    convert_epochs,
    describe_unused_parts,
    learning_rate,
    scale_recipe,
)

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


@pytest.mark.parametrize(
    ("kind", "power", "factors"),
    [
        # Half-way between 0.2 and 1, whatever the shape; at a quarter, 1 - sin(pi / 8)**2 of it.
        ("cosine", 1.0, {0: 1.0, 25: 0.2 + 0.8 * 0.8535533905932737, 50: 0.6, 100: 0.2, 150: 0.2}),
        ("polynomial", 1.0, {0: 1.0, 25: 0.8, 50: 0.6, 100: 0.2, 150: 0.2}),
        ("polynomial", 2.0, {0: 1.0, 50: 0.2 + 0.8 * 0.25, 90: 0.2 + 0.8 * 0.01, 100: 0.2}),
    ],
)
def test_schedules_end_at_the_final_factor(kind, power, factors):
    schedule = ScheduleConfig(
        kind=kind, steps=100, power=power, final_factor=0.2, warmup_steps=0, milestones=()
    )
    for step, factor in factors.items():
        assert learning_rate(step, 4.0, schedule) == pytest.approx(4.0 * factor, rel=1e-12), step


def test_a_constant_warm_up_ends_with_a_step():
    schedule = ScheduleConfig(warmup_kind="constant", warmup_steps=3, warmup_factor=0.25)
    assert [learning_rate(step, 4.0, schedule) for step in range(5)] == [1.0, 1.0, 1.0, 4.0, 4.0]


def test_without_a_warm_up_the_first_step_has_the_full_rate():
    for kind in ("linear", "constant"):
        schedule = ScheduleConfig(warmup_kind=kind, warmup_steps=0)
        assert learning_rate(0, 4.0, schedule) == 4.0


@given(
    kind=st.sampled_from(["multistep", "cosine", "polynomial"]),
    warmup_kind=st.sampled_from(["linear", "constant"]),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 100),
    power=st.floats(0.1, 4.0),
    final=st.floats(0.0, 1.0),
    step=st.integers(0, 600),
)
def test_the_learning_rate_lies_between_zero_and_the_base_rate(
    kind, warmup_kind, steps, warmup, power, final, step
):
    schedule = ScheduleConfig(
        kind=kind, steps=steps, milestones=(30, 60), warmup_steps=warmup,
        warmup_kind=warmup_kind, power=power, final_factor=final,
    )  # fmt: skip
    assert 0.0 <= learning_rate(step, 0.1, schedule) <= 0.1 * (1 + 1e-12)


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


def test_epochs_become_steps_of_the_dataset():
    schedule = ScheduleConfig(epochs=12, milestones_epochs=(8, 11), warmup_epochs=0.5)
    converted = convert_epochs(schedule, steps_per_epoch=7330)
    assert (converted.steps, converted.milestones) == (87_960, (58_640, 80_630))
    assert converted.warmup_steps == 3665
    assert convert_epochs(converted, 7330) == converted


def test_without_milestones_in_epochs_the_shape_of_the_schedule_is_kept():
    converted = convert_epochs(ScheduleConfig(epochs=9), steps_per_epoch=100)
    assert (converted.steps, converted.milestones) == (900, (600, 800))


def test_a_schedule_in_steps_does_not_depend_on_the_dataset():
    assert convert_epochs(DETECTRON_1X, 3) == DETECTRON_1X


@pytest.mark.parametrize(("steps_per_epoch", "warmup"), [(20, 20), (500, 500), (7330, 500)])
def test_a_warm_up_in_steps_takes_at_most_the_first_epoch(steps_per_epoch, warmup):
    assert convert_epochs(ScheduleConfig(epochs=12), steps_per_epoch).warmup_steps == warmup


@given(batch=st.integers(1, 64), recipe=st.integers(1, 64))
def test_epochs_do_not_scale_with_the_batch_but_the_rate_and_the_warm_up_do(batch, recipe):
    train = TrainConfig.model_validate(
        {
            "global_batch": batch,
            "recipe_batch": recipe,
            "schedule": {"epochs": 12, "milestones_epochs": [8, 11], "warmup_epochs": 1},
        }
    )
    scaled = scale_recipe(train)
    assert scaled.optimizer.lr == pytest.approx(0.02 * batch / recipe)
    schedule = convert_epochs(scaled.schedule, steps_per_epoch=10)
    assert (schedule.steps, schedule.milestones) == (120, (80, 110))
    assert schedule.warmup_steps == 10


@given(epochs=st.floats(0.001, 50), steps_per_epoch=st.integers(1, 1000))
def test_a_schedule_in_epochs_has_at_least_one_step_and_is_off_by_at_most_half_a_step(
    epochs, steps_per_epoch
):
    steps = convert_epochs(ScheduleConfig(epochs=epochs), steps_per_epoch).steps
    assert steps >= 1
    assert abs(steps - epochs * steps_per_epoch) <= 0.5 or steps == 1


@pytest.mark.parametrize(
    ("schedule", "problem"),
    [
        ({"epochs": 0}, "epochs: must be greater than 0"),
        ({"epochs": -1}, "epochs: must be greater than 0"),
        ({"epochs": 2, "milestones_epochs": [0]}, "milestones_epochs.0: must be greater than 0"),
        ({"milestones_epochs": [8, 11]}, "milestones_epochs is set, but epochs is null; set"),
        ({"milestones_epochs": [8], "warmup_epochs": 1}, "milestones_epochs and warmup_epochs are"),
        ({"final_factor": 1.5}, "final_factor: must be less than or equal to 1"),
    ],
)
def test_settings_that_make_no_schedule_are_refused(schedule, problem):
    with pytest.raises(ConfigError) as error:
        check_settings(ScheduleConfig, schedule)
    assert problem in str(error.value)


def test_what_lies_beyond_the_end_is_described():
    assert describe_unused_parts(DETECTRON_1X) == ""
    short = ScheduleConfig(steps=100, milestones=(60, 100, 140), warmup_steps=500)
    assert describe_unused_parts(short) == (
        "the training ends after 100 steps: the milestones 100, 140 are never reached and the "
        "warm-up of 500 steps never ends"
    )
    cosine = ScheduleConfig(kind="cosine", steps=100, warmup_steps=10)
    assert describe_unused_parts(cosine) == ""
