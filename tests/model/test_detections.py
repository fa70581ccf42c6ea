import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from model.detections import Detections
from model.structures import ImageSize


def random_detections(count=40, side=14):
    generator = torch.Generator().manual_seed(5)
    # Boxes of all sizes, many thin, some reaching out on either side.
    corner = torch.rand(count, 2, generator=generator) * 110
    boxes = torch.cat((corner, corner + torch.rand(count, 2, generator=generator) ** 3 * 150), 1)
    boxes[:10, :2] -= 60
    return Detections(
        boxes=boxes,
        scores=torch.rand(count, generator=generator).sort(descending=True).values,
        labels=torch.randint(1, 4, (count,), generator=generator),
        masks=torch.rand(count, side, side, generator=generator),
        image_size=ImageSize(120, 170),
        mask_threshold=0.4,
    )


def test_bitmaps_are_torchvision_s_pasted_masks():
    found = random_detections()
    expected = paste_masks_in_image(found.masks[:, None], found.boxes, found.image_size) > 0.4
    assert torch.equal(found.bitmaps(), expected[:, 0].byte())


def test_rle_is_pycocotools_encoding_of_the_bitmaps():
    found = random_detections()
    bitmaps = found.bitmaps().permute(1, 2, 0).numpy()
    expected = coco_mask.encode(np.asfortranarray(bitmaps))
    wanted = [{"size": [120, 170], "counts": one["counts"].decode()} for one in expected]
    assert found.rle() == wanted


def test_above_keeps_the_detections_with_at_least_that_score():
    found = random_detections()
    kept = found.above(float(found.scores[9]))
    assert len(kept) == 10
    assert torch.equal(kept.masks, found.masks[:10])
    assert torch.equal(kept.boxes, found.boxes[:10])


def test_no_detections_give_no_masks_of_the_right_shape():
    nothing = random_detections().above(2.0)
    assert nothing.rle() == []
    assert nothing.bitmaps().shape == (0, 120, 170)


def test_a_detector_without_masks_says_so():
    found = random_detections()
    boxes_only = Detections(found.boxes, found.scores, found.labels, None, found.image_size)
    for ask in (boxes_only.bitmaps, boxes_only.rle):
        with pytest.raises(ValueError, match="no mask head"):
            ask()
