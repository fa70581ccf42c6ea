"""The learning rate as a pure function of the step; recipes for another batch size, or in epochs.

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

    Source: Detectron's multistep schedule with warm-up; Loshchilov and Hutter 2017, equation 5, for
    the cosine; Chen et al. 2018 (DeepLab), section 4.1, for the polynomial.
    """
    factor = _decay_factor(step, schedule)
    if step < schedule.warmup_steps:
        factor *= _warmup_factor(step, schedule)
    return base_lr * factor


def _warmup_factor(step: int, schedule: ScheduleConfig) -> float:
    if schedule.warmup_kind == "constant":
        return schedule.warmup_factor
    progress = step / schedule.warmup_steps
    return schedule.warmup_factor * (1.0 - progress) + progress


def _decay_factor(step: int, schedule: ScheduleConfig) -> float:
    if schedule.kind == "multistep":
        passed = sum(milestone <= step for milestone in schedule.milestones)
        return float(schedule.gamma**passed)
    decay_steps = max(schedule.steps - schedule.warmup_steps, 1)
    progress = min(max(step - schedule.warmup_steps, 0) / decay_steps, 1.0)
    if schedule.kind == "cosine":
        falling = 0.5 * (1.0 + math.cos(math.pi * progress))
    else:
        falling = (1.0 - progress) ** schedule.power
    return schedule.final_factor + (1.0 - schedule.final_factor) * falling


def scale_recipe(train: TrainConfig) -> TrainConfig:
    """Scale a recipe to ``global_batch``: k times the batch, k times the rate, 1/k of the steps.

    The decay of averaged weights is taken to the power of k, so that the average spans the same
    number of images.

    The result's ``recipe_batch`` is its ``global_batch``, so scaling it again changes nothing.
    Without a ``recipe_batch`` the settings are returned unchanged. Epochs do not depend on the
    batch, so they are kept.

    Source: the linear scaling rule, Goyal et al. 2017, section 2.1; Busbridge et al. 2023, section
    2, for the average.
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
            "ema_decay": train.ema_decay**factor,
            "recipe_batch": train.global_batch,
        }
    )


def convert_epochs(schedule: ScheduleConfig, steps_per_epoch: int) -> ScheduleConfig:
    """Return the schedule with its length, milestones and warm-up in steps of a dataset.

    ``epochs`` and the other settings in epochs are kept, for the record. A schedule without epochs
    is returned unchanged.

    Args:
        schedule: already scaled to the batch (`scale_recipe`).
        steps_per_epoch: steps of one pass over the dataset.
    """
    if schedule.epochs is None:
        return schedule

    def to_steps(epochs: float) -> int:
        return max(1, round(epochs * steps_per_epoch))

    steps = to_steps(schedule.epochs)
    if schedule.milestones_epochs is not None:
        milestones = tuple(map(to_steps, schedule.milestones_epochs))
    else:
        longer = steps / schedule.steps
        milestones = tuple(max(1, round(step * longer)) for step in schedule.milestones)
    warmup_steps = min(schedule.warmup_steps, steps_per_epoch)
    if schedule.warmup_epochs is not None:
        warmup_steps = round(schedule.warmup_epochs * steps_per_epoch)
    return schedule.model_copy(
        update={"steps": steps, "milestones": milestones, "warmup_steps": warmup_steps}
    )


def describe_unused_parts(schedule: ScheduleConfig) -> str:
    """Return what lies beyond the end of a schedule in steps, as one sentence; empty if nothing."""
    parts = []
    late = [step for step in schedule.milestones if step >= schedule.steps]
    if schedule.kind == "multistep" and late:
        parts.append(f"the milestones {', '.join(map(str, late))} are never reached")
    if schedule.warmup_steps >= schedule.steps:
        parts.append(f"the warm-up of {schedule.warmup_steps} steps never ends")
    return f"the training ends after {schedule.steps} steps: {' and '.join(parts)}" if parts else ""
