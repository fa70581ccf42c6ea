"""One view changes nothing, and a flipped image has the flipped detections."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from model.detections import Detections
from tests.model.inference.detector_kinds import (
    KINDS,
    ONE_SIZE_FLIPPED,
    ONE_VIEW,
    TWO_SIZES_FLIPPED,
    assert_detections_close,
)


def flip_detections(detections, names=()):
    """Return the detections expected in the flipped image."""
    width = detections.image_size.width
    x1, y1, x2, y2 = detections.boxes.unbind(1)
    keypoints = detections.keypoints
    if keypoints is not None:
        swapped = [{"left": "right", "right": "left"}.get(name, name) for name in names]
        keypoints = keypoints[:, [names.index(name) for name in swapped]]
        keypoints = torch.cat((width - keypoints[..., :1], keypoints[..., 1:]), dim=2)
    return Detections(
        boxes=torch.stack((width - x2, y1, width - x1, y2), dim=1),
        scores=detections.scores,
        labels=detections.labels,
        masks=None if detections.masks is None else detections.masks.flip(2),
        image_size=detections.image_size,
        keypoints=keypoints,
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rpn"])
def test_a_single_unflipped_view_equals_no_augmentation(make_predictor, noise, kind):
    (expected,) = make_predictor(kind).predict([noise])
    (result,) = make_predictor(kind, ONE_VIEW).predict([noise])
    assert_detections_close(result, expected, box_atol=0, other_atol=0)
    if result.keypoints is not None:
        assert result.keypoints.equal(expected.keypoints)
        assert result.keypoints.shape == (len(result), 3, 3)


def test_a_single_view_of_a_resized_image_equals_no_augmentation(
    make_trained_predictor, trained_scene
):
    image = np.kron(trained_scene[1], np.ones((3, 3, 1), np.uint8))[:-5]
    (expected,) = make_trained_predictor(None).predict([image])
    (result,) = make_trained_predictor(ONE_VIEW).predict([image])
    # Coordinates are scaled to the image and back: fp32 of about 100.
    assert_detections_close(result, expected, box_atol=1e-3, other_atol=1e-4)
    # Peaks are searched in pixels of the image, nine of which are one pixel of the view: about the
    # same position, unless two peaks are almost equally high.
    confident = result.scores > 0.5
    distance = (result.keypoints - expected.keypoints)[confident, :2, :2].norm(dim=2)
    assert len(distance) >= 2
    assert distance.median() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_image_has_the_flipped_detections(make_predictor, noise, kind):
    predictor = make_predictor(kind, TWO_SIZES_FLIPPED)
    plain, flipped = predictor.predict([noise, np.ascontiguousarray(noise[:, ::-1])])
    names = predictor.config.keypoint.names if predictor.config.keypoint else ()
    # Pixels are resized and summed in reverse order: fp32.
    expected = flip_detections(plain, names)
    assert_detections_close(flipped, expected, box_atol=2e-2, other_atol=2e-3)
    if names:
        distance = (flipped.keypoints - expected.keypoints)[..., :2].abs().amax(dim=2)
        # Of two peaks that are almost equally high, the other one may win.
        assert (distance < 0.05).float().mean() > 0.95


def test_without_augmentation_a_flipped_image_has_other_detections(make_predictor, noise):
    """Check that the test above needs the augmentation."""
    images = [noise, np.ascontiguousarray(noise[:, ::-1])]
    plain, flipped = make_predictor("fpn").predict(images)
    expected = flip_detections(plain)
    assert len(plain) != len(flipped) or (expected.boxes - flipped.boxes).abs().max() > 1


@pytest.mark.parametrize("flip", [False, True])
def test_objects_are_detected_in_several_sizes(make_trained_predictor, trained_scene, flip):
    scene, image, _ = trained_scene
    predictor = make_trained_predictor({"short_sides": (56, 64, 72), "flip": flip})
    (result,) = predictor.predict([image])
    confident = result.above(0.3)
    overlap = box_iou(scene.boxes, confident.boxes)
    assert (overlap.amax(dim=1) > 0.7).all()
    nearest = overlap.argmax(dim=1)
    assert confident.labels[nearest].equal(scene.labels)
    for box, mask in zip(scene.boxes.long().tolist(), confident.bitmaps()[nearest], strict=True):
        inside = mask[box[1] : box[3], box[0] : box[2]]
        union = (box[3] - box[1]) * (box[2] - box[0]) + mask.sum() - inside.sum()
        assert inside.sum() / union > 0.6


@pytest.mark.parametrize("kind", ["fpn", "keypoint", "c4", "retinanet"])
def test_images_without_objects_give_empty_detections(make_predictor, noise, kind):
    threshold = {"score_threshold": 1.0}
    head = KINDS[kind].get("retinanet") or KINDS[kind].get("box", {"hidden": 64})
    changes = {"retinanet" if kind == "retinanet" else "box": head | threshold}
    predictor = make_predictor(kind, TWO_SIZES_FLIPPED, **changes)
    for result in predictor.predict([noise, np.zeros((1, 1, 3), np.uint8)]):
        assert result.boxes.shape == (0, 4)
        assert result.masks is None or result.masks.shape[0] == 0
        assert result.keypoints is None or result.keypoints.shape == (0, 3, 3)
        assert (result.masks is None) == (kind in ("keypoint", "retinanet"))
        assert (result.keypoints is None) == (kind != "keypoint")


@pytest.mark.parametrize("kind", ["fpn", "retinanet"])
def test_the_limit_on_detections_holds_for_all_views_together(make_predictor, noise, kind):
    head = KINDS[kind].get("retinanet") or {"hidden": 64}
    name = "retinanet" if kind == "retinanet" else "box"
    unlimited, limited = (
        make_predictor(
            kind, TWO_SIZES_FLIPPED, **{name: head | {"detections_per_image": limit}}
        ).predict([noise])[0]
        for limit in (100, 7)
    )
    assert len(limited) == 7 < len(unlimited)
    best = unlimited[torch.arange(7)]
    assert_detections_close(limited, best, box_atol=0, other_atol=1e-6)


def test_results_are_in_the_order_of_the_images_and_the_mode_is_restored(make_predictor, noise):
    predictor = make_predictor("faster", ONE_SIZE_FLIPPED)
    predictor.detector.train()
    images = [noise, noise[:40], noise.transpose(1, 0, 2)]
    together = predictor.predict(images, batch_size=1)
    assert predictor.detector.training
    for image, result in zip(images, together, strict=True):
        (alone,) = predictor.predict([image])
        assert_detections_close(result, alone, box_atol=0, other_atol=0)
    assert predictor.predict([]) == []


def test_sizes_that_the_long_side_makes_equal_are_computed_once(make_predictor, noise, monkeypatch):
    wide = np.concatenate([noise] * 3, axis=1)  # 64 x 240
    single, repeated = (
        make_predictor("fpn", {"short_sides": sides, "long_side": 120, "flip": False})
        for sides in [(40,), (40, 60, 80)]
    )
    (expected,) = single.predict([wide])
    features, calls = repeated.detector.features, []
    monkeypatch.setattr(
        repeated.detector, "features", lambda images: calls.append(images.sizes) or features(images)
    )
    (result,) = repeated.predict([wide])
    assert_detections_close(result, expected, box_atol=0, other_atol=0)
    assert calls == [((32, 120),)]
