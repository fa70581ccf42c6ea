"""Images are predicted once each and in order, in batches of similar shape."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from model import Predictor
from model.images.decode import FORMATS, decode_image
from model.weights import load_network
from pipeline.infer import detection_stream
from pipeline.infer.detection_stream import WINDOW_BATCHES, predict_images
from pipeline.infer.input_image import InputImage

SHAPES = ((48, 96), (96, 48), (60, 64), (80, 60), (48, 72))


def encode(index, size):
    """Return a PNG of rectangles on noise."""
    rng = np.random.default_rng(index)
    pixels = rng.integers(60, 120, (*size, 3), dtype=np.uint8)
    pixels[5:30, 10:40] = rng.integers(0, 255, 3, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def inputs(count, damaged=(), shapes=SHAPES):
    return [
        InputImage(index, f"{index}.png", b"no image" if index in damaged else encode(index, size))
        for index, size in enumerate(itertools.islice(itertools.cycle(shapes), count))
    ]


@pytest.fixture(scope="module")
def predictor(tiny_checkpoint):
    return Predictor(load_network(tiny_checkpoint))


@pytest.fixture
def batches(predictor):
    """The image batches of every forward pass."""
    seen = []
    hook = predictor.detector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    yield seen
    hook.remove()


def assert_same_bits(prediction, detections):
    for name in ("boxes", "scores", "labels", "masks"):
        assert torch.equal(getattr(prediction.detections, name), getattr(detections, name))


def padded_over_content(batches):
    padded = sum(batch.pixels[:, 0].numel() for batch in batches)
    return padded / sum(size.height * size.width for batch in batches for size in batch.sizes)


def test_every_image_has_one_prediction_in_order_and_damaged_ones_an_error(predictor):
    images = inputs(53, damaged=(0, 7, 8, 52))
    predictions = list(predict_images(predictor, iter(images), batch=2))
    assert [prediction.image for prediction in predictions] == images
    assert [n for n, each in enumerate(predictions) if each.error] == [0, 7, 8, 52]
    for prediction in predictions:
        if prediction.detections is not None:
            shape = decode_image(prediction.image.encoded).shape[:2]
            assert prediction.detections.image_size == shape


def test_a_window_is_predicted_in_batches_of_similar_shape(predictor, batches):
    # The detector resizes them to 64 x 96, 96 x 64 and 64 x 64: canvases without padding.
    images = inputs(4 * WINDOW_BATCHES, shapes=((32, 48), (48, 32), (32, 32)))
    list(predict_images(predictor, images, batch=4))
    assert [len(batch) for batch in batches] == [4] * WINDOW_BATCHES
    by_shape = padded_over_content(batches)
    batches.clear()
    for start in range(0, len(images), 4):
        arrived = [decode_image(image.encoded) for image in images[start : start + 4]]
        predictor.predict(arrived, batch_size=4)
    assert by_shape < 1.1 < 1.5 < padded_over_content(batches)


def test_the_same_batches_give_the_same_bits_and_the_window_only_changes_padding(predictor):
    images = inputs(20)
    pixels = [decode_image(image.encoded) for image in images]
    # One window holds all of them: the predictor makes the same batches.
    together = predictor.predict(pixels, batch_size=4)
    alone = predictor.predict(pixels, batch_size=1)
    for n, prediction in enumerate(predict_images(predictor, images, batch=4)):
        assert_same_bits(prediction, together[n])
    for n, prediction in enumerate(predict_images(predictor, images, batch=1)):
        assert_same_bits(prediction, alone[n])


@pytest.mark.parametrize("limit", [1, 40_000, 100_000])
def test_large_images_make_smaller_windows_of_whole_batches(monkeypatch, limit):
    images = inputs(23, damaged=(3,))
    monkeypatch.setattr(detection_stream, "MAX_WINDOW_BYTES", limit)
    windows = list(detection_stream._decoded_windows(images, 3, WINDOW_BATCHES, None))
    assert [image for window in windows for image, _ in window] == images
    assert all(len(window) % 3 == 0 for window in windows[:-1])
    sizes = [sum(getattr(pixels, "nbytes", 0) for _, pixels in window) for window in windows]
    # At most one batch beyond the limit: 3 images of up to 14,400 bytes.
    assert max(sizes) <= limit + 3 * 14_400
    assert len(windows) > 2


def test_errors_are_the_same_on_every_run(predictor, monkeypatch):
    """Two runs over damaged files of every format write equal rows: no memory addresses."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    images = []
    for number, file_format in enumerate(FORMATS):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, file_format)
        whole = buffer.getvalue()
        cuts = [whole[: len(whole) // n] for n in (2, 5, 20, 1000)]
        images += [InputImage(number, file_format, data) for data in (*cuts, b"\0" + whole)]
    runs = [[p.error for p in predict_images(predictor, images, batch=2)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert sum(error is not None for error in runs[0]) > 30
    assert not any(" at 0x" in error for error in runs[0] if error)

    def fail(image):
        raise OSError(f"cannot identify image file {io.BytesIO()!r}")

    monkeypatch.setattr(InputImage, "decode", fail)
    [prediction] = predict_images(predictor, images[:1], batch=1)
    assert prediction.error == (
        "cannot be decoded (OSError: cannot identify image file <_io.BytesIO object>)"
    )
