import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from model.boxes.selection import SelectedBoxes
from model.detections import Detections, detections_per_image
from model.structures import ImageBatch, ImageSize


def random_detections(count=40, side=14):
    generator = torch.Generator().manual_seed(5)
    # Boxes of all sizes, many of them thin, some beyond the border on either side.
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


def test_bitmaps_match_torchvision():
    detections = random_detections()
    pasted = paste_masks_in_image(
        detections.masks[:, None], detections.boxes, detections.image_size
    )
    assert torch.equal(detections.bitmaps(), (pasted > 0.4)[:, 0].byte())


def test_rle_matches_pycocotools_encoding_of_the_bitmaps():
    detections = random_detections()
    bitmaps = detections.bitmaps().permute(1, 2, 0).numpy()
    encoded = coco_mask.encode(np.asfortranarray(bitmaps))
    expected = [{"size": [120, 170], "counts": one["counts"].decode()} for one in encoded]
    assert detections.rle() == expected


def test_above_keeps_the_detections_with_at_least_that_score():
    detections = random_detections()
    kept = detections.above(float(detections.scores[9]))
    assert len(kept) == 10
    assert torch.equal(kept.masks, detections.masks[:10])
    assert torch.equal(kept.boxes, detections.boxes[:10])


def test_no_detections_have_no_masks():
    none = random_detections().above(2.0)
    assert none.rle() == []
    assert none.bitmaps().shape == (0, 120, 170)


def test_asking_for_masks_without_a_mask_head_is_an_error():
    with_masks = random_detections()
    detections = Detections(
        with_masks.boxes, with_masks.scores, with_masks.labels, None, with_masks.image_size
    )
    for method in (detections.bitmaps, detections.rle):
        with pytest.raises(ValueError, match="no mask head"):
            method()


def test_keypoints_stay_with_their_boxes():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 8.0]])
    keypoints = torch.arange(2 * 5 * 3, dtype=torch.float32).reshape(2, 5, 3)
    detections = Detections(
        boxes,
        torch.tensor([0.9, 0.3]),
        torch.tensor([1, 2]),
        None,
        ImageSize(9, 9),
        keypoints=keypoints,
    )
    assert torch.equal(detections.above(0.5).keypoints, keypoints[:1])
    assert torch.equal(detections[torch.tensor([1, 0])].keypoints, keypoints.flip(0))
    assert detections.to("meta").keypoints.device.type == "meta"


def test_a_batch_is_split_by_image_and_scaled_to_the_original_sizes():
    sizes = (ImageSize(30, 50), ImageSize(40, 40), ImageSize(32, 64))
    original_sizes = (ImageSize(60, 100), ImageSize(40, 40), ImageSize(16, 128))
    images = ImageBatch(torch.zeros(3, 3, 64, 64), sizes, original_sizes)
    selected = SelectedBoxes(
        torch.tensor([[0.0, 1, 2, 3, 4], [2, 10, 20, 30, 32], [2, 0, 0, 64, 32]]),
        torch.tensor([0.9, 0.8, 0.7]),
        torch.tensor([1, 2, 3]),
        [1, 0, 2],
    )
    keypoints = torch.tensor([[1.0, 2, 7], [10, 20, 8], [64, 32, 9]])[:, None]
    masks = torch.rand(3, 14, 14)
    first, second, third = detections_per_image(selected, images, masks, keypoints=keypoints)
    assert first.boxes.tolist() == [[2, 4, 6, 8]]
    assert first.keypoints.tolist() == [[[2, 4, 7]]]
    assert len(second) == 0
    assert second.masks.shape == (0, 14, 14)
    assert third.boxes.tolist() == [[20, 10, 60, 16], [0, 0, 128, 16]]
    assert third.keypoints.tolist() == [[[20, 10, 8]], [[128, 16, 9]]]
    assert third.masks.equal(masks[1:])
    assert third.labels.tolist() == [2, 3]
    assert [d.image_size for d in (first, second, third)] == list(original_sizes)


@pytest.mark.parametrize("mask_paste", ["padded", "inclusive", "grid"])
def test_bitmap_crops_hold_the_whole_masks(mask_paste):
    torch.manual_seed(0)
    corners = torch.rand(40, 2) * torch.tensor([90.0, 60.0]) - 10
    boxes = torch.cat([corners, corners + torch.rand(40, 2) * 50], 1)
    boxes[0] = torch.tensor([-30.0, -30.0, 150.0, 120.0])
    detections = Detections(
        boxes=boxes,
        scores=torch.ones(40),
        labels=torch.ones(40, dtype=torch.int64),
        masks=torch.rand(40, 7, 7),
        image_size=ImageSize(70, 100),
        mask_paste=mask_paste,
    )
    whole = detections.bitmaps()
    crops = detections.bitmap_crops()
    for bitmap, crop in zip(whole, crops, strict=True):
        x, y = crop.corner
        height, width = crop.bitmap.shape
        pasted = torch.zeros_like(bitmap)
        pasted[y : y + height, x : x + width] = crop.bitmap
        assert (pasted != bitmap).sum() <= 1  # float rounding of a shifted box
    assert sum(crop.bitmap.numel() for crop in crops[1:]) < whole[1:].numel() / 2
