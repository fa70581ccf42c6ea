"""Mask R-CNN as a whole: it overfits two scenes, and its losses do not depend on the batch."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from model import Predictor, build_detector
from model.structures import BitmapMasks, ImageSize, PolygonMasks, Targets
from tests.model.training import train_steps

LOSSES = {"rpn_objectness", "rpn_box", "box_class", "box_regression", "mask"}


def test_it_overfits_two_scenes(detector, scenes, draw_image, make_batch):
    losses = train_steps(detector, make_batch(scenes), scenes, steps=200, lr=1e-3)
    assert losses[-1] < 0.1 * losses[0]
    images = [draw_image(target).numpy() for target in scenes]
    for target, result in zip(scenes, Predictor(detector).predict(images), strict=True):
        confident = result.above(0.5)
        overlap = box_iou(target.boxes, confident.boxes)
        assert (overlap.amax(dim=1) > 0.7).all()
        assert torch.equal(confident.labels[overlap.argmax(dim=1)], target.labels)
        masks = confident.bitmaps()[overlap.argmax(dim=1)]
        for (x1, y1, x2, y2), mask in zip(target.boxes.long().tolist(), masks, strict=True):
            area = (y2 - y1) * (x2 - x1)
            intersection = int(mask[y1:y2, x1:x2].sum())
            assert intersection / (area + int(mask.sum()) - intersection) > 0.7


def test_losses_of_a_batch_are_the_sums_of_those_of_its_images(
    detector, scenes, box_targets, make_batch
):
    crowded = box_targets([[2 + 9 * i, 5, 10 + 9 * i, 20 + i] for i in range(6)], [1] * 6)
    targets, seeds, canvas = [crowded, *scenes], (11, 12, 13), ImageSize(96, 64)
    together = detector(make_batch(targets, seeds, canvas), targets)
    alone = [
        detector(make_batch([target], [seed], canvas), [target])
        for target, seed in zip(targets, seeds, strict=True)
    ]
    assert together.keys() == LOSSES
    for name, term in together.items():
        # Summed in another order, fp32.
        torch.testing.assert_close(
            term.total, sum(one[name].total for one in alone), rtol=1e-4, atol=1e-5
        )
        assert term.count == sum(one[name].count for one in alone)
        assert not term.count.requires_grad


def test_seeds_decide_the_samples(detector, scenes, make_batch):
    first, again, other = (
        detector(make_batch(scenes, s), scenes) for s in ((1, 2), (1, 2), (3, 4))
    )
    assert first["rpn_objectness"].total == again["rpn_objectness"].total
    assert first["rpn_objectness"].total != other["rpn_objectness"].total


@pytest.mark.parametrize("empty_images", [1, 2])
def test_every_parameter_has_a_gradient_even_without_objects(
    detector, scenes, empty_images, box_targets, make_batch
):
    targets = [box_targets([], [])] * empty_images + scenes[: 2 - empty_images]
    terms = detector(make_batch(targets), targets)
    sum(term.total for term in terms.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in detector.parameters())
    if empty_images == 2:
        assert terms["mask"].total == terms["rpn_box"].total == terms["box_regression"].total == 0
        assert terms["box_class"].count > 0


def test_degenerate_objects_have_finite_losses(detector, box_targets, make_batch):
    target = box_targets([[10, 10, 10.001, 10.001], [0, 0, 64, 64]], [1, 2])
    terms = detector(make_batch([target]), [target])
    assert all(term.total.isfinite() for term in terms.values())


def test_faster_r_cnn_has_no_mask_loss_and_no_masks(scenes, tiny_config, make_batch):
    detector = build_detector(tiny_config(mask=None))
    without_masks = [Targets(t.boxes, t.labels) for t in scenes]
    assert detector(make_batch(scenes), without_masks).keys() == LOSSES - {"mask"}
    results = Predictor(detector).predict([np.zeros((9, 9, 3), np.uint8)])
    assert all(result.masks is None for result in results)


def test_targets_without_masks_are_rejected_with_the_remedy(detector, scenes, make_batch):
    without_masks = [Targets(target.boxes, target.labels) for target in scenes]
    with pytest.raises(ValueError, match=r"set model\.mask to null"):
        detector(make_batch(scenes), without_masks)


@pytest.mark.parametrize("precision", [torch.bfloat16])
def test_losses_under_autocast_are_close_to_exact_ones(detector, scenes, precision, make_batch):
    batch = make_batch(scenes)
    exact = detector(batch, scenes)
    with torch.autocast("cpu", precision):
        rounded = detector(batch, scenes)
    for name, term in rounded.items():
        assert term.total.dtype == torch.float32
        # 8 bits of mantissa; other proposals may be sampled.
        torch.testing.assert_close(
            term.total / term.count, exact[name].total / exact[name].count, rtol=0.2, atol=0.05
        )


def test_bitmap_masks_have_about_the_loss_of_polygons(detector, scenes, make_batch):
    with_bitmaps = []
    for target in scenes:
        bitmaps = torch.zeros(len(target), 64, 64, dtype=torch.uint8)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, target.boxes.long().tolist(), strict=True):
            bitmap[y1:y2, x1:x2] = 1
        with_bitmaps.append(Targets(target.boxes, target.labels, BitmapMasks(bitmaps)))
    assert isinstance(scenes[0].masks, PolygonMasks)
    expected = detector(make_batch(scenes), scenes)["mask"]
    # Boxes and samples are equal: only pixels on the outlines can differ.
    result = detector(make_batch(scenes), with_bitmaps)["mask"]
    torch.testing.assert_close(result.total, expected.total, rtol=0.05, atol=0)
    assert result.count == expected.count
