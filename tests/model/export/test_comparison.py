"""Two detectors agree where class, place, score and mask agree, in whatever order."""

import pytest
import torch

from model.detections import Detections
from model.export.comparison import Agreement, compare
from model.structures import ImageSize


def _some(count=6):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 100
    return Detections(
        boxes=torch.cat((corner, corner + 20), 1),
        scores=torch.linspace(0.9, 0.3, count),
        labels=torch.arange(count) % 2 + 1,
        masks=torch.rand(count, 4, 4, generator=generator),
        image_size=ImageSize(200, 200),
    )


def _as_dict(found):
    return {name: getattr(found, name).clone() for name in ("boxes", "scores", "labels", "masks")}


def test_order_does_not_count():
    agreement = compare(_some(), _as_dict(_some()[torch.tensor([3, 1, 0, 2, 5, 4])]))
    assert agreement == Agreement(6, 6, 6)
    assert agreement.share == 1.0


@pytest.mark.parametrize(
    ("name", "change"), [("boxes", 0.1), ("scores", 0.01), ("labels", 1), ("masks", 0.05)]
)
def test_one_that_differs_in_anything_does_not_agree(name, change):
    found = _as_dict(_some())
    found[name][2] += change
    assert compare(_some(), found).agreeing == 5


def test_what_only_one_of_them_finds_lowers_the_share():
    fewer = _as_dict(_some()[torch.arange(3)])
    assert compare(_some(), fewer).share == 0.5
    assert compare(_some()[torch.arange(3)], _as_dict(_some())).share == 0.5
    assert compare(_some(), _as_dict(_some()[torch.arange(0)])) == Agreement(6, 0, 0)


def test_pictures_add_up():
    total = Agreement(3, 2, 2, box=0.01, score=1e-5) + Agreement(1, 1, 1, box=0.001, mask=1e-4)
    assert total == Agreement(4, 3, 3, 0.01, 1e-5, 1e-4)
