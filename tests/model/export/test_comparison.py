"""Detections match if class, box, score and mask agree, in any order."""

import pytest
import torch

from model.detections import Detections
from model.export.comparison import Agreement, compare_detections
from model.structures import ImageSize


def _random_detections(count=6):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 100
    return Detections(
        boxes=torch.cat((corner, corner + 20), 1),
        scores=torch.linspace(0.9, 0.3, count),
        labels=torch.arange(count) % 2 + 1,
        masks=torch.rand(count, 4, 4, generator=generator),
        image_size=ImageSize(200, 200),
    )


def _as_dict(detections):
    names = ("boxes", "scores", "labels", "masks")
    return {name: getattr(detections, name).clone() for name in names}


def test_order_does_not_matter():
    shuffled = _random_detections()[torch.tensor([3, 1, 0, 2, 5, 4])]
    agreement = compare_detections(_random_detections(), _as_dict(shuffled))
    assert agreement == Agreement(6, 6, 6)
    assert agreement.matched_share == 1.0


@pytest.mark.parametrize(
    ("name", "change"), [("boxes", 0.1), ("scores", 0.01), ("labels", 1), ("masks", 0.05)]
)
def test_a_detection_that_differs_in_any_field_does_not_match(name, change):
    exported = _as_dict(_random_detections())
    exported[name][2] += change
    assert compare_detections(_random_detections(), exported).matched == 5


def test_missing_and_extra_detections_lower_the_matched_share():
    detections, first_three = _random_detections(), _random_detections()[torch.arange(3)]
    none = detections[torch.arange(0)]
    assert compare_detections(detections, _as_dict(first_three)).matched_share == 0.5
    assert compare_detections(first_three, _as_dict(detections)).matched_share == 0.5
    assert compare_detections(detections, _as_dict(none)) == Agreement(6, 0, 0)


def test_agreements_of_several_images_add_up():
    total = Agreement(3, 2, 2, box=0.01, score=1e-5) + Agreement(1, 1, 1, box=0.001, mask=1e-4)
    assert total == Agreement(4, 3, 3, 0.01, 1e-5, 1e-4)
