"""What several views of a picture show together."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from model.detections import Detections
from tests.model.inference.kinds import KINDS, ONE_VIEW, SIZES, assert_alike


def mirrored(found, names=()):
    """What must be found in the mirrored picture."""
    width = found.image_size.width
    x1, y1, x2, y2 = found.boxes.unbind(1)
    keypoints = found.keypoints
    if keypoints is not None:
        swapped = [{"left": "right", "right": "left"}.get(name, name) for name in names]
        keypoints = keypoints[:, [names.index(name) for name in swapped]]
        keypoints = torch.cat((width - keypoints[..., :1], keypoints[..., 1:]), dim=2)
    return Detections(
        boxes=torch.stack((width - x2, y1, width - x1, y2), dim=1),
        scores=found.scores,
        labels=found.labels,
        masks=None if found.masks is None else found.masks.flip(2),
        image_size=found.image_size,
        keypoints=keypoints,
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rpn"])
def test_one_view_that_is_not_mirrored_shows_what_the_detector_finds_alone(build, noise, kind):
    (expected,) = build(kind, None).predict([noise])
    (found,) = build(kind, ONE_VIEW).predict([noise])
    assert_alike(found, expected, box=0, rest=0)
    if found.keypoints is not None:
        assert found.keypoints.equal(expected.keypoints)
        assert found.keypoints.shape == (len(found), 3, 3)


def test_one_view_of_a_resized_picture_shows_what_the_detector_finds_alone(knowing, learned):
    picture = np.kron(learned[1], np.ones((3, 3, 1), np.uint8))[:-5]
    (expected,) = knowing(None).predict([picture])
    (found,) = knowing(ONE_VIEW).predict([picture])
    # coordinates go to the picture and back: fp32 of about 100
    assert_alike(found, expected, box=1e-3, rest=1e-4)
    # They are looked for in the pixels of the picture, of which nine are one of the view: about the
    # same place, unless two of them are about as good.
    sure = found.scores > 0.5
    away = (found.keypoints - expected.keypoints)[sure, :2, :2].norm(dim=2)
    assert len(away) >= 2
    assert away.median() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_picture_shows_mirrored_objects(build, noise, kind):
    detector = build(kind, SIZES)
    there, back = detector.predict([noise, np.ascontiguousarray(noise[:, ::-1])])
    names = detector.config.keypoint.names if detector.config.keypoint else ()
    # Pixels are resized, and sums made, in mirrored order: fp32.
    wanted = mirrored(there, names)
    assert_alike(back, wanted, box=2e-2, rest=2e-3)
    if names:
        away = (back.keypoints - wanted.keypoints)[..., :2].abs().amax(dim=2)
        # Of two places about as good, the other may win.
        assert (away < 0.05).float().mean() > 0.95


def test_alone_a_detector_does_not_know_that_it_sees_a_mirror_image(build, noise):
    """Else the law above would hold without doing anything for it."""
    there, back = build("fpn", None).predict([noise, np.ascontiguousarray(noise[:, ::-1])])
    wanted = mirrored(there)
    assert len(there) != len(back) or (wanted.boxes - back.boxes).abs().max() > 1


@pytest.mark.parametrize("flip", [False, True])
def test_what_was_found_stays_found_in_several_sizes(knowing, learned, flip):
    scene, picture, _ = learned
    (found,) = knowing({"short_sides": (56, 64, 72), "flip": flip}).predict([picture])
    sure = found.above(0.3)
    overlap = box_iou(scene.boxes, sure.boxes)
    assert (overlap.amax(dim=1) > 0.7).all()
    nearest = overlap.argmax(dim=1)
    assert sure.labels[nearest].equal(scene.labels)
    for box, mask in zip(scene.boxes.long().tolist(), sure.bitmaps()[nearest], strict=True):
        inside = mask[box[1] : box[3], box[0] : box[2]]
        union = (box[3] - box[1]) * (box[2] - box[0]) + mask.sum() - inside.sum()
        assert inside.sum() / union > 0.6
