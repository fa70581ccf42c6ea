"""The learning rate as a pure function of the step, and recipes scaled to another batch size.

The schedule has no state, so a resumed run cannot continue with a stale learning rate.
"""

import math

from pipeline.config import ScheduleConfig, TrainConfig


def learning_rate(step: int, base_lr: float, schedule: ScheduleConfig) -> float:
    """Return the learning rate of optimizer step ``step``.

    Args:
        step: optimizer steps taken before this one; the first step is 0.
        base_lr: learning rate after warm-up.
        schedule: warm-up and decay, already scaled to the batch (``scale_recipe``).

    Source: Detectron's multistep schedule with warm-up; Loshchilov and Hutter 2017 for the cosine.
    """
    return base_lr * _warmup_factor(step, schedule) * _decay_factor(step, schedule)


def _warmup_factor(step: int, schedule: ScheduleConfig) -> float:
    if step >= schedule.warmup_steps:
        return 1.0
    progress = step / schedule.warmup_steps
    return schedule.warmup_factor * (1.0 - progress) + progress


def _decay_factor(step: int, schedule: ScheduleConfig) -> float:
    match schedule.kind:
        case "multistep":
            passed = sum(milestone <= step for milestone in schedule.milestones)
            return float(schedule.gamma**passed)
        case "cosine":
            decay_steps = max(schedule.steps - schedule.warmup_steps, 1)
            progress = min(max(step - schedule.warmup_steps, 0) / decay_steps, 1.0)
            return 0.5 * (1.0 + math.cos(math.pi * progress))


def scale_recipe(train: TrainConfig) -> TrainConfig:
    """Scale a recipe to ``global_batch``: k times the batch, k times the rate, 1/k of the steps.

    The result's ``recipe_batch`` is its ``global_batch``, so scaling it again changes nothing.
    Without a ``recipe_batch`` the settings are returned unchanged.

    Source: the linear scaling rule, Goyal et al. 2017, section 2.1.
    """
    if train.recipe_batch is None or train.recipe_batch == train.global_batch:
        return train
    factor = train.global_batch / train.recipe_batch

    def scale_steps(steps: int) -> int:
        return max(1, round(steps / factor))

    schedule = train.schedule.model_copy(
        update={
            "steps": scale_steps(train.schedule.steps),
            "milestones": tuple(scale_steps(step) for step in train.schedule.milestones),
            "warmup_steps": round(train.schedule.warmup_steps / factor),
        }
    )
    optimizer = train.optimizer.model_copy(update={"lr": train.optimizer.lr * factor})
    return train.model_copy(
        update={
            "optimizer": optimizer,
            "schedule": schedule,
            "recipe_batch": train.global_batch,
        }
    )
