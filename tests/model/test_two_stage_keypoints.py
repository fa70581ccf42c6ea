"""Keypoint R-CNN as a whole: losses, coordinates and missing keypoints."""

import numpy as np
import pytest
import torch

from model import Predictor, build_detector, load_detector, save_detector
from model.boxes.selection import SelectedBoxes
from model.detections import detections_per_image
from model.structures import ImageBatch, ImageSize, Targets
from tests.model.training import train_steps


@pytest.fixture
def noise():
    """A random image that is resized to 85 x 64 pixels, (128, 96, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)


def test_it_overfits_the_keypoints_of_two_scenes(
    tiny_config, keypoint_head, keypoint_scenes, draw_image, make_batch
):
    torch.manual_seed(0)
    detector = build_detector(tiny_config(mask=None, keypoint=keypoint_head))
    train_steps(detector, make_batch(keypoint_scenes), keypoint_scenes, steps=80, lr=2e-3)
    images = [draw_image(target).numpy() for target in keypoint_scenes]
    results = Predictor(detector).predict(images)
    for target, result in zip(keypoint_scenes, results, strict=True):
        for box, keypoints in zip(target.boxes, target.keypoints, strict=True):
            nearest = (result.boxes - box).abs().sum(1).argmin()
            distance = (result.keypoints[nearest, :2, :2] - keypoints[:2, :2]).norm(dim=1)
            # Boxes are at least 20 pixels wide.
            assert (distance < 3).all()


def test_losses_of_a_batch_are_the_sums_of_those_of_its_images(
    full_detector, keypoint_scenes, make_batch
):
    seeds, canvas = (11, 12), ImageSize(96, 64)
    together = full_detector(make_batch(keypoint_scenes, seeds, canvas), keypoint_scenes)
    alone = [
        full_detector(make_batch([target], [seed], canvas), [target])
        for target, seed in zip(keypoint_scenes, seeds, strict=True)
    ]
    assert {"mask", "keypoint"} < together.keys()
    term = together["keypoint"]
    assert term.count == sum(one["keypoint"].count for one in alone) > 0
    assert not term.count.requires_grad
    # Summed in another order, fp32.
    torch.testing.assert_close(
        term.total, sum(one["keypoint"].total for one in alone), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("objects", [True, False], ids=["unlabeled", "no_objects"])
def test_every_parameter_has_a_gradient_even_without_labeled_keypoints(
    full_detector, keypoint_scenes, box_targets, with_keypoints, make_batch, objects
):
    targets = keypoint_scenes if objects else [with_keypoints(box_targets([], []))] * 2
    for target in targets:
        target.keypoints[..., 2] = 0
    terms = full_detector(make_batch(targets), targets)
    assert terms["keypoint"].total == terms["keypoint"].count == 0
    sum(term.total for term in terms.values()).backward()
    assert all((p.grad is not None) and p.grad.isfinite().all() for p in full_detector.parameters())
    assert all((p.grad == 0).all() for p in full_detector.roi_heads.keypoint.parameters())


def test_keypoints_are_scaled_to_the_original_image():
    images = ImageBatch(
        torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        sizes=(ImageSize(32, 48), ImageSize(64, 64)),
        original_sizes=(ImageSize(64, 144), ImageSize(32, 16)),
    )
    rois = torch.tensor([[1.0, 8, 8, 16, 16]])
    selected = SelectedBoxes(rois, torch.ones(1), torch.ones(1, dtype=torch.int64), [0, 1])
    keypoints = torch.tensor([[[10.0, 12, 7], [8, 16, -3]]])
    empty, one = detections_per_image(selected, images, keypoints=keypoints)
    assert empty.keypoints.shape == (0, 2, 3)
    assert one.keypoints.tolist() == [[[2.5, 6, 7], [2, 8, -3]]]


def test_keypoints_of_a_resized_image_lie_in_their_boxes(full_detector, noise):
    (result,) = Predictor(full_detector).predict([noise])
    assert result.keypoints.shape == (len(result), 3, 3)
    near, far = result.boxes[:, None, :2], result.boxes[:, None, 2:]
    assert ((result.keypoints[..., :2] > near) & (result.keypoints[..., :2] < far)).all()
    assert result.keypoints[..., 1].max() > 96  # outside the resized image


def test_keypoints_learned_as_pixel_indices_move_by_half_a_pixel_of_the_original(
    tiny_config, keypoint_head, noise
):
    results = []
    for coordinates in ("continuous", "pixel_numbers"):
        torch.manual_seed(0)
        conventions = {"keypoint_coordinates": coordinates}
        config = tiny_config(mask=None, keypoint=keypoint_head, conventions=conventions)
        results += Predictor(build_detector(config)).predict([noise])
    continuous, indices = (result.keypoints for result in results)
    assert len(continuous) > 0
    half = torch.tensor([0.5, 0.5, 0.0])
    # The image was resized, so float32 rounds.
    torch.testing.assert_close(indices, continuous + half, rtol=0, atol=1e-4)


def test_images_without_detections_have_no_keypoints(full_detector):
    with torch.no_grad():
        full_detector.roi_heads.box.class_logits.bias[0] = 50
    for result in Predictor(full_detector).predict([np.zeros((40, 60, 3), np.uint8)] * 2):
        assert len(result) == 0
        assert result.keypoints.shape == (0, 3, 3)


def test_without_a_keypoint_head_there_are_no_keypoints(detector, keypoint_scenes, make_batch):
    assert "keypoint" not in detector(make_batch(keypoint_scenes), keypoint_scenes)
    (result,) = Predictor(detector).predict([np.zeros((40, 60, 3), np.uint8)])
    assert result.keypoints is None


def test_targets_without_keypoints_are_rejected_with_the_remedy(full_detector, scenes, make_batch):
    without_keypoints = [Targets(target.boxes, target.labels, target.masks) for target in scenes]
    with pytest.raises(ValueError, match=r"set model\.keypoint to null"):
        full_detector(make_batch(without_keypoints), without_keypoints)


def test_a_saved_detector_detects_the_same_keypoints(full_detector, tmp_path):
    save_detector(full_detector, tmp_path)
    loaded = load_detector(tmp_path)
    assert loaded.config.keypoint.names == ("left", "middle", "right")
    image = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (expected,), (result,) = Predictor(full_detector).predict([image]), loaded.predict([image])
    assert result.keypoints.equal(expected.keypoints)
