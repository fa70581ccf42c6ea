import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from model import Category, build_detector
from model.structures import BitmapMasks, ImageSize, PolygonMasks, Targets

LOSSES = {"rpn_objectness", "rpn_box", "box_class", "box_regression", "mask"}


def total(terms):
    return sum(term.total / term.count.clamp(min=1) for term in terms.values())


def test_two_scenes_are_learned_by_heart(detector, scenes, draw_image, batch_of):
    batch = batch_of(scenes)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    detector.train()
    losses = []
    for _ in range(200):
        loss = total(detector(batch, scenes))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.1 * losses[0]
    pictures = [draw_image(target).numpy() for target in scenes]
    for target, found in zip(scenes, detector.predict(pictures), strict=True):
        sure = found.above(0.5)
        overlap = box_iou(target.boxes, sure.boxes)
        assert (overlap.amax(dim=1) > 0.7).all()
        assert torch.equal(sure.labels[overlap.argmax(dim=1)], target.labels)
        masks = sure.bitmaps()[overlap.argmax(dim=1)]
        for (x1, y1, x2, y2), mask in zip(target.boxes.long().tolist(), masks, strict=True):
            area = (y2 - y1) * (x2 - x1)
            shared = int(mask[y1:y2, x1:x2].sum())
            assert shared / (area + int(mask.sum()) - shared) > 0.7


def test_a_batch_loses_what_its_images_lose_alone(detector, scenes, box_targets, batch_of):
    crowded = [
        box_targets([[2 + 9 * i, 5, 10 + 9 * i, 20 + i] for i in range(6)], [1] * 6),
        *scenes,
    ]
    seeds, canvas = (11, 12, 13), ImageSize(96, 64)
    together = detector(batch_of(crowded, seeds, canvas), crowded)
    alone = [
        detector(batch_of([target], [seed], canvas), [target])
        for target, seed in zip(crowded, seeds, strict=True)
    ]
    assert together.keys() == LOSSES
    for name, term in together.items():
        # Sums in another order, fp32.
        torch.testing.assert_close(
            term.total, sum(one[name].total for one in alone), rtol=1e-4, atol=1e-5
        )
        assert term.count == sum(one[name].count for one in alone)
        assert not term.count.requires_grad


def test_other_seeds_choose_other_samples(detector, scenes, batch_of):
    first, again, other = (detector(batch_of(scenes, s), scenes) for s in ((1, 2), (1, 2), (3, 4)))
    assert first["rpn_objectness"].total == again["rpn_objectness"].total
    assert first["rpn_objectness"].total != other["rpn_objectness"].total


@pytest.mark.parametrize("empty_images", [1, 2])
def test_every_parameter_takes_part_whatever_the_images_hold(
    detector, scenes, empty_images, box_targets, batch_of
):
    targets = [box_targets([], [])] * empty_images + scenes[: 2 - empty_images]
    terms = detector(batch_of(targets), targets)
    sum(term.total for term in terms.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in detector.parameters())
    if empty_images == 2:
        assert terms["mask"].total == terms["rpn_box"].total == terms["box_regression"].total == 0
        assert terms["box_class"].count > 0


def test_degenerate_objects_leave_the_losses_finite(detector, box_targets, batch_of):
    target = box_targets([[10, 10, 10.001, 10.001], [0, 0, 64, 64]], [1, 2])
    terms = detector(batch_of([target]), [target])
    assert all(term.total.isfinite() for term in terms.values())


def test_faster_r_cnn_has_no_mask_loss_and_no_masks(scenes, tiny_config, batch_of):
    detector = build_detector(tiny_config(mask=None))
    bare = [Targets(t.boxes, t.labels) for t in scenes]
    assert detector(batch_of(scenes), bare).keys() == LOSSES - {"mask"}
    assert all(found.masks is None for found in detector.predict([np.zeros((9, 9, 3), np.uint8)]))


@pytest.mark.parametrize("precision", [torch.bfloat16])
def test_autocast_gives_about_the_same_losses(detector, scenes, precision, batch_of):
    batch = batch_of(scenes)
    exact = detector(batch, scenes)
    with torch.autocast("cpu", precision):
        rounded = detector(batch, scenes)
    for name, term in rounded.items():
        assert term.total.dtype == torch.float32
        # 8 bits of mantissa; other proposals may be drawn.
        torch.testing.assert_close(
            term.total / term.count, exact[name].total / exact[name].count, rtol=0.2, atol=0.05
        )


def test_predictions_come_in_the_order_and_the_pixels_of_the_images(detector):
    rng = np.random.default_rng(0)
    shapes = [(40, 90), (90, 40), (64, 64), (200, 150), (30, 31)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    detector.train()
    together = detector.predict(images, batch_size=2)
    assert detector.training
    for shape, image, found in zip(shapes, images, together, strict=True):
        assert found.image_size == shape
        assert len(found) > 0
        assert found.boxes[:, 2].max() <= shape[1] + 1e-3
        assert found.boxes[:, 3].max() <= shape[0] + 1e-3
        assert (found.scores.diff() <= 0).all()
        assert found.labels.min() >= 1
        assert found.labels.max() <= 3
        assert found.masks.shape == (len(found), 28, 28)
        (alone,) = detector.predict([image])
        # Alone there is less padding; group norm and convolutions feel it at the border.
        assert abs(len(alone) - len(found)) <= 0.5 * len(found)


def test_an_image_without_detections_gives_empty_tensors(tiny_config):
    detector = build_detector(tiny_config(box={"hidden": 64, "score_threshold": 1.0}))
    (found,) = detector.predict([np.zeros((50, 70, 3), np.uint8)])
    assert len(found) == 0
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 28, 28)
    assert found.bitmaps().shape == (0, 50, 70)
    assert detector.predict([]) == []


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (np.zeros((5, 5, 3), np.float32), TypeError, "image 1 must be a uint8 .* got float32"),
        (np.zeros((3, 5, 5), np.uint8), ValueError, r"image 1 .* got \(3, 5, 5\)"),
        (np.zeros((5, 5), np.uint8), ValueError, r"image 1 .* got \(5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"image 1 .* got \(0, 5, 3\)"),
        ("picture.jpg", TypeError, "image 1 .* got str"),
    ],
)
def test_a_picture_of_another_kind_is_refused_by_its_number(detector, image, error, words):
    with pytest.raises(error, match=words):
        detector.predict([np.zeros((5, 5, 3), np.uint8), image])


def test_training_without_seeds_or_with_too_few_targets_is_refused(detector, scenes, batch_of):
    batch = batch_of(scenes)
    with pytest.raises(ValueError, match="2 images but 1 targets"):
        detector(batch, scenes[:1])
    with pytest.raises(ValueError, match="one sampling seed per image"):
        detector(type(batch)(batch.pixels, batch.sizes, batch.original_sizes), scenes)


def test_categories_must_match_the_number_of_classes(tiny_config):
    assert build_detector(tiny_config()).categories[2] == Category(3, "class_3")
    with pytest.raises(ValueError, match="num_classes is 3 but 1 categories"):
        build_detector(tiny_config(), [Category(7, "cat")])


def test_padding_is_zero_after_normalising_and_bgr_swaps_the_channels(
    scenes, tiny_config, batch_of
):
    batch = batch_of(scenes[:1], canvas=ImageSize(96, 96))
    rules = {"pixel_order": "bgr", "pixel_mean": (1, 2, 3), "pixel_std": (1, 1, 2)}
    normalised = build_detector(tiny_config(conventions=rules))._network_input(batch)
    assert (normalised[:, :, 64:] == 0).all()
    assert (normalised[:, :, :, 64:] == 0).all()
    red, green, blue = batch.pixels[0, :, 0, 0].tolist()
    assert normalised[0, :, 0, 0].tolist() == [blue - 1, green - 2, (red - 3) / 2]


@pytest.mark.parametrize("norm", ["frozen_bn", "batch_norm", "group_norm"])
@pytest.mark.parametrize("depth", [18, 50])
def test_small_models_of_every_kind_build_and_learn(norm, depth, scenes, tiny_config, batch_of):
    backbone = {
        "depth": depth,
        "norm": norm,
        "frozen_stages": 0,
        "width": 8,
    }
    detector = build_detector(tiny_config(backbone=backbone)).train()
    batch = batch_of(scenes)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        losses.append(total(detector(batch, scenes)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_bitmap_masks_train_too(detector, scenes, batch_of):
    bitmaps = []
    for target in scenes:
        drawn = torch.zeros(len(target), 64, 64, dtype=torch.uint8)
        for row, (x1, y1, x2, y2) in zip(drawn, target.boxes.long().tolist(), strict=True):
            row[y1:y2, x1:x2] = 1
        bitmaps.append(Targets(target.boxes, target.labels, BitmapMasks(drawn)))
    assert isinstance(scenes[0].masks, PolygonMasks)
    expected = detector(batch_of(scenes), scenes)["mask"]
    # Same boxes, same samples: only the outlines' edges may differ.
    got = detector(batch_of(scenes), bitmaps)["mask"]
    torch.testing.assert_close(got.total, expected.total, rtol=0.05, atol=0)
    assert got.count == expected.count
