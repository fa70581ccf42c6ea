"""A predictor draws the objects of an image in one line."""

import numpy as np
import pytest
import torch
from PIL import Image

from model import Category, ModelConfig, Predictor, build_detector
from model.config import BackboneConfig, FpnConfig, InputConfig, KeypointHeadConfig
from model.config.keypoint_names import COCO_PERSON_KEYPOINTS, COCO_PERSON_SKELETON

NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    config = ModelConfig(
        num_classes=2,
        input=InputConfig(short_side=64, long_side=96),
        backbone=BackboneConfig(depth=18, norm="batch_norm", frozen_stages=0, width=8),
        fpn=FpnConfig(channels=16),
        box={"hidden": 32, "score_threshold": 0.0, "detections_per_image": 3},
        mask={"channels": 16, "layers": 1},
    )
    return Predictor(build_detector(config, [Category(n, name) for n, name in enumerate(NAMES, 1)]))


@pytest.fixture
def gray():
    return np.full((330, 400), 128, np.uint8)


def test_an_image_in_any_form_is_drawn_on_in_its_own_size(predictor, gray, tmp_path):
    path = tmp_path / "gray.png"
    Image.fromarray(gray).save(path)
    detections = predictor.predict(gray)
    forms = [
        gray,
        path,
        path.read_bytes(),
        Image.open(path),
        np.dstack([gray, gray, gray, gray]),
        torch.from_numpy(gray)[None],
    ]
    drawn = [predictor.draw(form, detections, min_score=0) for form in forms]
    assert {(image.mode, image.size) for image in drawn} == {("RGB", (400, 330))}
    assert len({image.tobytes() for image in drawn}) == 1
    assert drawn[0].tobytes() != np.dstack([gray] * 3).tobytes()
    # Without detections it predicts them itself.
    assert predictor.draw(path, min_score=0).tobytes() == drawn[0].tobytes()


def test_objects_below_the_score_are_not_drawn(predictor, gray):
    assert predictor.draw(gray, min_score=1.0).tobytes() == np.dstack([gray] * 3).tobytes()


def test_detections_of_another_image_are_refused(predictor, gray):
    detections = predictor.predict(gray[:100])
    with pytest.raises(ValueError, match="those of an image of ImageSize"):
        predictor.draw(gray, detections)
    with pytest.raises(TypeError, match="one image"):
        predictor.draw([gray])


def test_the_skeleton_follows_from_the_names_of_the_keypoints(predictor):
    assert predictor.class_names == NAMES
    assert predictor.skeleton == ()
    config = predictor.config.model_copy(
        update={"keypoint": KeypointHeadConfig(names=COCO_PERSON_KEYPOINTS, channels=16, layers=1)}
    )
    assert Predictor(build_detector(config)).skeleton == COCO_PERSON_SKELETON
