"""Plan copy-paste: which images get objects of another image, of which one, and which objects.

Slot b of a batch of B images takes objects of the image that follows in its lane
(``pipeline.stream.shard_plan``), so the worker of the slot reads it anyway, usually with the same
row group. Where objects are pasted, that image is read for slot B + b too, the *paste slot* of b.
Like everything random here, pastes are a function of (seed, step, slot).

Shapes: T steps of an epoch, B images of a global batch, N slots.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.stream.random_numbers import Purpose, random_fractions
from pipeline.stream.shard_plan import Integers, ShardPlan, batches_of_epoch, images_of_step


@functools.lru_cache(maxsize=4)
def paste_sources(plan: ShardPlan, epoch: int) -> Integers:
    """Return the (T, B) numbers of the images whose objects may be pasted on those of an epoch.

    The last image of a lane takes the first one. In a lane of a single image it is the image of the
    next slot.
    """
    images, kinds = batches_of_epoch(plan, epoch)
    sources = np.empty_like(images)
    for kind in np.unique(kinds):
        lanes = images[kinds == kind]
        shift, axis = (-1, 0) if len(lanes) > 1 else (-1, 1)
        sources[kinds == kind] = np.roll(lanes, shift, axis=axis)
    return sources


def is_pasted_on(
    plan: ShardPlan, steps: ArrayLike, slots: ArrayLike, probability: float
) -> NDArray[np.bool_]:
    """Return (N,) whether objects are pasted on the images of some slots.

    Args:
        plan: the plan.
        steps: the step of each slot, or one step for all.
        slots: the slots, or one slot for all steps.
        probability: ``data.copy_paste_probability``.
    """
    return random_fractions(plan.seed, steps, slots, Purpose.PASTE, 1)[:, 0] < probability


def filled_paste_slots(
    plan: ShardPlan, step: int, slots: Sequence[int], probability: float
) -> list[int]:
    """Return the paste slots of those of some slots on which objects are pasted."""
    if not probability:
        return []
    pasted = is_pasted_on(plan, step, slots, probability)
    filled: list[int] = (plan.global_batch + np.asarray(slots)[pasted]).tolist()
    return filled


def images_by_slot(plan: ShardPlan, step: int) -> Integers:
    """Return the (2 B,) numbers of the images of all slots and paste slots of a step."""
    epoch, images = images_of_step(plan, step)
    return np.concatenate([images, paste_sources(plan, epoch)[step % plan.steps_per_epoch]])


def choose_objects(plan: ShardPlan, step: int, slot: int, count: int) -> list[int]:
    """Return which of ``count`` objects are pasted in a slot: any number of them, all alike.

    Source: Ghiasi et al. 2021, section 3; the number is uniform as in the authors' code.
    """
    numbers = random_fractions(plan.seed, step, [slot], Purpose.PASTE, 2 + count)[0, 1:]
    chosen = np.argsort(numbers[1:])[: int(numbers[0] * (count + 1))]
    return sorted(chosen.tolist())
