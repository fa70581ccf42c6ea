"""COCO's classes, and how other libraries number them."""

from collections.abc import Sequence
from itertools import count

from model.config import KeypointHeadConfig, ModelConfig
from model.structures import Category

# Ids that the annotations of 2014 and later do not use.
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire
hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear,
zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports
ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine
glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot
dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush
"""


def coco_categories() -> list[Category]:
    """Return the 80 COCO classes by ascending id, the order of every library but torchvision.

    Source: Lin et al. 2014; ids of the published annotations.
    """
    ids = (number for number in count(1) if number not in _UNUSED_IDS)
    names = (name.strip() for name in _NAMES.replace("\n", " ").split(","))
    return [Category(number, name) for name, number in zip(names, ids, strict=False)]


def sparse_coco_categories() -> list[Category]:
    """Return the 90 COCO ids that torchvision trains on, the unused ones named "N/A"."""
    unused = [Category(number, "N/A") for number in _UNUSED_IDS]
    return sorted([*coco_categories(), *unused])


def guess_categories(config: ModelConfig) -> Sequence[Category]:
    """Return the classes of a published detector; none if their names are unknown.

    80 classes are assumed to be COCO's, and one class with the keypoints of COCO's persons is
    assumed to be person.
    """
    coco, keypoint = coco_categories(), config.keypoint
    if config.num_classes == len(coco):
        return coco
    has_persons = keypoint is not None and keypoint.names == KeypointHeadConfig().names
    return coco[:1] if has_persons and config.num_classes == 1 else ()
