"""A served detector returns the columns that its signature declares."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from PIL import Image

from model import Category, Detections, ModelConfig
from model.config import KeypointHeadConfig
from model.structures import ImageSize
from pipeline.track.logged_model import SIGNATURE
from pipeline.track.served_model import ServedDetector

KEYPOINTS = torch.tensor([[[4.5, 2.0, 7.5], [1.0, 8.0, -3.0]], [[3.0, 3.0, 1.0], [2.0, 2.0, 1.0]]])


def served_detector(keypoints):
    """Return a served stand-in for a predictor, with the same two detections in every image."""
    detections = Detections(
        boxes=torch.tensor([[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 5.0, 5.0]]),
        scores=torch.tensor([0.9, 0.4]),
        labels=torch.tensor([1, 1]),
        masks=None,
        image_size=ImageSize(10, 10),
        keypoints=keypoints,
    )
    head = None if keypoints is None else KeypointHeadConfig(names=("tip", "tail"))
    served = ServedDetector()
    served.predictor = SimpleNamespace(
        predict=lambda images: [detections for _ in images],
        categories=(Category(30, "fish"),),
        config=ModelConfig(num_classes=1, keypoint=head),
    )
    return served


def predict_two_images(served, **params):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(buffer, "PNG")
    return served.predict(None, pd.DataFrame({"image": [buffer.getvalue()] * 2}), params)


def test_detections_have_keypoints_and_each_row_has_their_names():
    frame = predict_two_images(served_detector(KEYPOINTS), score_threshold=0.5)
    assert list(frame["keypoints"]) == [KEYPOINTS[:1].tolist()] * 2
    assert list(frame["keypoint_names"]) == [["tip", "tail"]] * 2
    assert list(frame.columns) == SIGNATURE.outputs.input_names()


def test_a_detector_without_keypoints_returns_empty_lists():
    frame = predict_two_images(served_detector(None))
    assert list(frame["keypoints"]) == list(frame["keypoint_names"]) == [[], []]
    assert [len(scores) for scores in frame["scores"]] == [2, 2]
