"""Draw what happens to the images of a step: augmentations, and which get objects of another.

Shapes: B images of a global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from model.structures import ImageSize
from pipeline.stream.augmentation.draw import DRAWS, AugmentationRanges, draw_augmentations
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.paste_plan import filled_paste_slots, images_by_slot
from pipeline.stream.random_numbers import Purpose, random_fractions
from pipeline.stream.shard_plan import Integers, ShardPlan


@dataclass(frozen=True)
class DrawnStep:
    """What is drawn for some slots of a step.

    Args:
        step: the optimizer step.
        images: (2 B,) numbers of the images of all slots and paste slots.
        augmentations: by slot and paste slot.
        paste_limits: by slot, the size at which pasted objects are cut; none where nothing is
            pasted.
    """

    step: int
    images: Integers
    augmentations: dict[int, Augmentation]
    paste_limits: dict[int, ImageSize]


def draw_step(
    plan: ShardPlan,
    ranges: AugmentationRanges,
    paste_probability: float,
    step: int,
    slots: Sequence[int],
) -> DrawnStep:
    """Draw the augmentations of some slots of a step, and of what is pasted on them.

    Args:
        plan: plan of the dataset.
        ranges: what augmentations are drawn from.
        paste_probability: ``data.copy_paste_probability``.
        step: the optimizer step.
        slots: the slots; their numbers do not depend on the others.
    """
    images = images_by_slot(plan, step)
    sources = filled_paste_slots(plan, step, slots, paste_probability)
    both = [*slots, *sources]
    drawn = draw_augmentations(
        [ImageSize(*size) for size in plan.sizes[images[both]].tolist()],
        random_fractions(plan.seed, step, both, Purpose.AUGMENTATION, DRAWS),
        ranges,
    )
    augmentations = dict(zip(both, drawn, strict=True))
    limits = {}
    for source in sources:
        slot = source - plan.global_batch
        limits[slot] = size = augmentations[source].output_size
        if ranges.scale_jitter is None:
            # Images grow only up to the side of a scale jitter, as in the paper.
            on = augmentations[slot].output_size
            limits[slot] = ImageSize(min(size.height, on.height), min(size.width, on.width))
    return DrawnStep(step, images, augmentations, limits)
