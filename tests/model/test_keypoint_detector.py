"""Keypoint R-CNN as a whole: what it learns and what it finds."""

import numpy as np
import pytest
import torch

from model import build_detector, save_detector
from model.boxes.selection import SelectedBoxes, to_detections
from model.structures import ImageBatch, ImageSize, Targets
from model.weights import load_network


def total(terms):
    return sum(term.total / term.count.clamp(min=1) for term in terms.values())


@pytest.fixture
def posed_scenes(scenes, with_keypoints):
    return [with_keypoints(target) for target in scenes]


def test_the_keypoints_of_two_scenes_are_learned_by_heart(
    tiny_config, keypoint_head, posed_scenes, draw_image, batch_of
):
    torch.manual_seed(0)
    detector = build_detector(tiny_config(mask=None, keypoint=keypoint_head)).train()
    batch = batch_of(posed_scenes)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    for _ in range(80):
        loss = total(detector(batch, posed_scenes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures = [draw_image(target).numpy() for target in posed_scenes]
    for target, found in zip(posed_scenes, detector.predict(pictures), strict=True):
        for box, points in zip(target.boxes, target.keypoints, strict=True):
            nearest = (found.boxes - box).abs().sum(1).argmin()
            away = (found.keypoints[nearest, :2, :2] - points[:2, :2]).norm(dim=1)
            # The boxes are 20 pixels wide and more.
            assert (away < 3).all()


def test_a_batch_loses_what_its_images_lose_alone(full_detector, posed_scenes, batch_of):
    seeds, canvas = (11, 12), ImageSize(96, 64)
    together = full_detector(batch_of(posed_scenes, seeds, canvas), posed_scenes)
    alone = [
        full_detector(batch_of([target], [seed], canvas), [target])
        for target, seed in zip(posed_scenes, seeds, strict=True)
    ]
    assert {"mask", "keypoint"} < together.keys()
    term = together["keypoint"]
    assert term.count == sum(one["keypoint"].count for one in alone) > 0
    assert not term.count.requires_grad
    # Sums in another order, fp32.
    torch.testing.assert_close(
        term.total, sum(one["keypoint"].total for one in alone), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("people", [True, False], ids=["unlabelled", "nobody"])
def test_every_parameter_takes_part_where_no_keypoint_counts(
    full_detector, posed_scenes, box_targets, with_keypoints, batch_of, people
):
    targets = posed_scenes if people else [with_keypoints(box_targets([], []))] * 2
    for target in targets:
        target.keypoints[..., 2] = 0
    terms = full_detector(batch_of(targets), targets)
    assert terms["keypoint"].total == terms["keypoint"].count == 0
    sum(term.total for term in terms.values()).backward()
    assert all((p.grad is not None) and p.grad.isfinite().all() for p in full_detector.parameters())
    assert all((p.grad == 0).all() for p in full_detector.roi_heads.keypoint.parameters())


def test_keypoints_are_given_in_the_pixels_of_the_image_as_it_was():
    images = ImageBatch(
        torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
        sizes=(ImageSize(32, 48), ImageSize(64, 64)),
        original_sizes=(ImageSize(64, 144), ImageSize(32, 16)),
    )
    rois = torch.tensor([[1.0, 8, 8, 16, 16]])
    found = SelectedBoxes(rois, torch.ones(1), torch.ones(1, dtype=torch.int64), [0, 1])
    keypoints = torch.tensor([[[10.0, 12, 7], [8, 16, -3]]])
    nothing, one = to_detections(found, images, keypoints=keypoints)
    assert nothing.keypoints.shape == (0, 2, 3)
    assert one.keypoints.tolist() == [[[2.5, 6, 7], [2, 8, -3]]]


def test_keypoints_lie_in_their_boxes_also_in_a_resized_picture(full_detector):
    picture = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    (found,) = full_detector.predict([picture])
    assert found.keypoints.shape == (len(found), 3, 3)
    near, far = found.boxes[:, None, :2], found.boxes[:, None, 2:]
    assert ((found.keypoints[..., :2] > near) & (found.keypoints[..., :2] < far)).all()
    assert found.keypoints[..., 1].max() > 96  # beyond the picture as the network saw it


def test_pixel_numbers_become_places_half_a_pixel_further_in_the_picture(
    tiny_config, keypoint_head
):
    picture = np.random.default_rng(0).integers(0, 256, (128, 96, 3), dtype=np.uint8)
    found = []
    for coordinates in ("continuous", "pixel_numbers"):
        torch.manual_seed(0)
        rules = {"keypoint_coordinates": coordinates}
        config = tiny_config(mask=None, keypoint=keypoint_head, conventions=rules)
        found += build_detector(config).predict([picture])
    places, numbers = (one.keypoints for one in found)
    assert len(places) > 0
    half = torch.tensor([0.5, 0.5, 0.0])
    # The picture was halved: as float32 goes, not to the last bit.
    torch.testing.assert_close(numbers, places + half, rtol=0, atol=1e-4)


def test_no_detections_have_no_keypoints(full_detector):
    with torch.no_grad():
        full_detector.roi_heads.box.class_logits.bias[0] = 50
    for found in full_detector.predict([np.zeros((40, 60, 3), np.uint8)] * 2):
        assert len(found) == 0
        assert found.keypoints.shape == (0, 3, 3)


def test_without_a_keypoint_head_there_are_no_keypoints(detector, posed_scenes, batch_of):
    assert "keypoint" not in detector(batch_of(posed_scenes), posed_scenes)
    assert detector.predict([np.zeros((40, 60, 3), np.uint8)])[0].keypoints is None


def test_data_without_keypoints_are_refused_with_the_remedy(full_detector, scenes, batch_of):
    bare = [Targets(target.boxes, target.labels, target.masks) for target in scenes]
    with pytest.raises(ValueError, match=r"set model\.keypoint to null"):
        full_detector(batch_of(bare), bare)


def test_a_saved_keypoint_detector_is_the_same_again(full_detector, tmp_path):
    save_detector(full_detector, tmp_path)
    again = load_network(tmp_path)
    assert again.config.keypoint.names == ("left", "middle", "right")
    picture = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    (expected,), (found,) = full_detector.predict([picture]), again.predict([picture])
    assert found.keypoints.equal(expected.keypoints)
