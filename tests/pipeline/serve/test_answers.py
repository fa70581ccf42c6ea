"""A server answers what the detector predicts."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from model import Predictor, build_detector
from model.config import KeypointHeadConfig
from model.drawing import detected_objects, draw_objects
from model.images.decode import decode_image
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.predict.detector import DrawingDetector
from pipeline.serve.answers import json_answer

pytestmark = pytest.mark.ray

TURNED = Image.Exif()
TURNED[0x0112] = 6  # a quarter turn


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("PNG", {}), ("JPEG", {"exif": TURNED}), ("WEBP", {}), ("TIFF", {}), ("BMP", {}), ("GIF", {})],
)
def test_the_answer_is_what_the_detector_predicts(
    url, send, encoded, predictor, tiny_checkpoint, image_format, options
):
    data = encoded(image_format=image_format, **options)
    reply = send(f"{url}/predict", data)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    expected = predictor.predict(decode_image(data))
    assert len(expected) > 0
    assert reply.content == {
        "model": str(tiny_checkpoint),
        "height": 80 if options else 60,
        "width": 60 if options else 80,
        "boxes": expected.boxes.tolist(),
        "scores": expected.scores.tolist(),
        "labels": expected.labels.tolist(),
        "names": [predictor.class_names[label - 1] for label in expected.labels.tolist()],
        "masks": expected.rle(),
        "keypoints": None,
        "keypoint_names": None,
    }


def test_a_request_selects_scores_and_classes(url, send, encoded):
    data = encoded()
    everything = send(f"{url}/predict", data).content
    score = sorted(everything["scores"])[1]
    selected = send(f"{url}/predict?min_score={score}", data).content
    assert len(selected["scores"]) == len(selected["masks"]) == len(everything["scores"]) - 1
    name = everything["names"][0]
    selected = send(f"{url}/predict?classes={name.upper()},%20", data).content
    assert set(selected["names"]) == {name}
    assert selected["scores"] == [
        score
        for score, each in zip(everything["scores"], everything["names"], strict=True)
        if each == name
    ]


def test_the_drawn_answer_is_the_image_with_the_objects(url, send, encoded, predictor):
    data = encoded()
    reply = send(f"{url}/draw?min_score=0.1", data)
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    pixels = decode_image(data)
    detections = predictor.predict(pixels).above(0.1)
    drawn = draw_objects(pixels, detected_objects(detections, predictor.class_names))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(reply.body))), drawn)


def test_keypoints_are_answered_with_their_names(tiny_model_config):
    head = KeypointHeadConfig(names=SHAPE_KEYPOINTS, channels=16, layers=1)
    config = tiny_model_config.model_copy(update={"mask": None, "keypoint": head})
    torch.manual_seed(0)
    predictor = Predictor(build_detector(config))
    detections = predictor.predict(np.full((60, 80, 3), 90, np.uint8))
    content = json.loads(json_answer(detections, DrawingDetector(predictor, 0.0), "x").body)
    assert content["masks"] is None
    assert content["keypoints"] == detections.keypoints.tolist()
    assert content["keypoint_names"] == list(SHAPE_KEYPOINTS)
    assert {len(each) for each in content["keypoints"]} == {len(SHAPE_KEYPOINTS)}


def test_a_server_names_the_model_when_it_is_ready(url, send, predictor, tiny_checkpoint):
    assert send(f"{url}/ready").content == {
        "status": "ready",
        "model": str(tiny_checkpoint),
        "classes": list(predictor.class_names),
    }
