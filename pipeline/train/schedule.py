"""The learning rate as a pure function of the step, and the recipe scaled to another batch size.

Nothing here has a state, so a resumed run can never go on with an old rate.
"""

import math

from pipeline.config import ScheduleConfig, TrainConfig


def learning_rate(step: int, base_lr: float, schedule: ScheduleConfig) -> float:
    """The rate of optimiser step ``step``; the first step is 0.

    Args:
        step: optimiser steps taken before this one.
        base_lr: the rate after warm-up.
        schedule: warm-up and decay, already scaled to the batch (``scale_recipe``).

    Source: Detectron's warm-up multistep; Loshchilov and Hutter 2017 for the cosine.
    """
    return base_lr * _warmup_share(step, schedule) * _decay_share(step, schedule)


def _warmup_share(step: int, schedule: ScheduleConfig) -> float:
    if step >= schedule.warmup_steps:
        return 1.0
    progress = step / schedule.warmup_steps
    return schedule.warmup_factor * (1.0 - progress) + progress


def _decay_share(step: int, schedule: ScheduleConfig) -> float:
    match schedule.kind:
        case "multistep":
            drops = sum(milestone <= step for milestone in schedule.milestones)
            return float(schedule.gamma**drops)
        case "cosine":
            decaying = max(schedule.steps - schedule.warmup_steps, 1)
            progress = min(max(step - schedule.warmup_steps, 0) / decaying, 1.0)
            return 0.5 * (1.0 + math.cos(math.pi * progress))


def scale_recipe(train: TrainConfig) -> TrainConfig:
    """The same recipe for ``global_batch`` images: the rate grows as the steps shrink.

    The result's ``recipe_batch`` is its ``global_batch``, so that scaling again changes nothing.
    Without a ``recipe_batch`` the settings are returned as they are.

    Source: the linear scaling rule, Goyal et al. 2017, section 2.1.
    """
    if train.recipe_batch is None or train.recipe_batch == train.global_batch:
        return train
    growth = train.global_batch / train.recipe_batch

    def scaled(steps: int) -> int:
        return max(1, round(steps / growth))

    schedule = train.schedule.model_copy(
        update={
            "steps": scaled(train.schedule.steps),
            "milestones": tuple(scaled(step) for step in train.schedule.milestones),
            "warmup_steps": round(train.schedule.warmup_steps / growth),
        }
    )
    optimizer = train.optimizer.model_copy(update={"lr": train.optimizer.lr * growth})
    return train.model_copy(
        update={
            "optimizer": optimizer,
            "schedule": schedule,
            "recipe_batch": train.global_batch,
        }
    )
