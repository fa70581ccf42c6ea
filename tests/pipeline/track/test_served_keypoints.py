"""A served detector with keypoints answers in the columns that its signature names."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from PIL import Image

from model import Category, Detections, ModelConfig
from model.config import KeypointHeadConfig
from model.structures import ImageSize
from pipeline.track.model_signature import SIGNATURE
from pipeline.track.served_model import ServedDetector

POINTS = torch.tensor([[[4.5, 2.0, 7.5], [1.0, 8.0, -3.0]], [[3.0, 3.0, 1.0], [2.0, 2.0, 1.0]]])


def served(keypoints):
    """Serves a stand-in for a trained detector, which finds two objects in every picture."""
    found = Detections(
        boxes=torch.tensor([[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 5.0, 5.0]]),
        scores=torch.tensor([0.9, 0.4]),
        labels=torch.tensor([1, 1]),
        masks=None,
        image_size=ImageSize(10, 10),
        keypoints=keypoints,
    )
    head = None if keypoints is None else KeypointHeadConfig(names=("tip", "tail"))
    detector = ServedDetector()
    detector.detector = SimpleNamespace(
        predict=lambda images: [found for _ in images],
        categories=(Category(30, "fish"),),
        config=ModelConfig(num_classes=1, keypoint=head),
    )
    return detector


def ask(detector, **params):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((10, 10, 3), np.uint8)).save(buffer, "PNG")
    return detector.predict(None, pd.DataFrame({"image": [buffer.getvalue()] * 2}), params)


def test_each_object_has_its_points_and_the_row_their_names():
    answer = ask(served(POINTS), score_threshold=0.5)
    assert list(answer["keypoints"]) == [POINTS[:1].tolist()] * 2
    assert list(answer["keypoint_names"]) == [["tip", "tail"]] * 2
    assert list(answer.columns) == SIGNATURE.outputs.input_names()


def test_a_detector_without_keypoints_answers_with_empty_lists():
    answer = ask(served(None))
    assert list(answer["keypoints"]) == list(answer["keypoint_names"]) == [[], []]
    assert [len(scores) for scores in answer["scores"]] == [2, 2]
