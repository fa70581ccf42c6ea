"""Predictor: images of any size to detections, in order, whatever the batch size."""

import numpy as np
import pytest
import torch

from model import Detector, Predictor, build_detector, load_detector, save_detector
from tests.model.inference.detector_kinds import ONE_SIZE_FLIPPED, assert_detections_close


@pytest.fixture
def predictor(detector):
    return Predictor(detector.eval())


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_detections_are_in_the_order_and_the_pixels_of_the_images(predictor):
    rng = np.random.default_rng(0)
    shapes = [(40, 90), (90, 40), (64, 64), (200, 150), (30, 31)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    together = predictor.predict(images, batch_size=2)
    for shape, image, result in zip(shapes, images, together, strict=True):
        assert result.image_size == shape
        assert len(result) > 0
        assert result.boxes[:, 2].max() <= shape[1] + 1e-3
        assert result.boxes[:, 3].max() <= shape[0] + 1e-3
        assert (result.scores.diff() <= 0).all()
        assert result.labels.min() >= 1
        assert result.labels.max() <= 3
        assert result.masks.shape == (len(result), 28, 28)
        (alone,) = predictor.predict([image])
        # Alone there is less padding, which group norm and convolutions at the border see.
        assert abs(len(alone) - len(result)) <= 0.5 * len(result)


def test_results_of_equal_sizes_do_not_depend_on_order_or_batch_size(predictor):
    images = [random_image(64, 80, seed) for seed in range(3)]
    expected = predictor.predict(images, batch_size=3)
    for batch_size in (1, 2, 100):
        for result, reference in zip(
            predictor.predict(images[::-1], batch_size), expected[::-1], strict=True
        ):
            # The batch size changes how the convolutions sum: fp32.
            assert_detections_close(result, reference, box_atol=1e-2, other_atol=1e-4)
    assert not expected[0].boxes.equal(expected[1].boxes)


def test_images_of_similar_shape_share_a_batch(predictor, monkeypatch):
    batches, forward = [], predictor.detector.forward
    monkeypatch.setattr(
        predictor.detector, "forward", lambda batch: batches.append(batch) or forward(batch)
    )
    predictor.predict([random_image(*s) for s in [(64, 96), (96, 64)] * 2], batch_size=2)
    # Short side 64, long side 96, canvas in multiples of 32: nothing is padded.
    assert [batch.sizes for batch in batches] == [((64, 96),) * 2, ((96, 64),) * 2]
    assert [batch.canvas for batch in batches] == [(64, 96), (96, 64)]


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("augmentation", [None, ONE_SIZE_FLIPPED], ids=["plain", "augmented"])
def test_the_mode_is_restored(make_predictor, noise, mode, augmentation):
    predictor = make_predictor("faster", augmentation)
    predictor.detector.train(mode)
    predictor.predict([noise])
    assert {part.training for part in predictor.detector.modules()} == {mode}


@pytest.mark.parametrize("augmentation", [None, ONE_SIZE_FLIPPED], ids=["plain", "augmented"])
def test_the_mode_is_restored_after_an_exception(make_predictor, noise, monkeypatch, augmentation):
    predictor = make_predictor("faster", augmentation)
    predictor.detector.train()
    modes = []

    def fail(images):
        modes.append(predictor.detector.training)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(predictor.detector, "features", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        predictor.predict([noise])
    assert modes == [False]
    assert {part.training for part in predictor.detector.modules()} == {True}


def test_predictions_do_not_depend_on_the_mode_and_have_no_gradients(predictor):
    image = random_image(64, 80)
    (expected,) = predictor.predict([image])
    predictor.detector.train()
    (result,) = predictor.predict([image])
    assert_detections_close(result, expected, box_atol=0, other_atol=0)
    assert not result.boxes.requires_grad
    assert all(parameter.grad is None for parameter in predictor.detector.parameters())


def test_an_image_without_objects_gives_empty_tensors(tiny_config):
    config = tiny_config(box={"hidden": 64, "score_threshold": 1.0})
    predictor = Predictor(build_detector(config))
    (result,) = predictor.predict([np.zeros((50, 70, 3), np.uint8)])
    assert len(result) == 0
    assert result.boxes.shape == (0, 4)
    assert result.masks.shape == (0, 28, 28)
    assert result.bitmaps().shape == (0, 50, 70)
    assert predictor.predict([]) == []


def test_arrays_that_torch_cannot_share_are_copied(predictor):
    image = random_image(64, 80)
    (expected,) = predictor.predict([image])
    read_only = image.copy()
    read_only.flags.writeable = False
    reversed_twice = image[:, ::-1].copy()[:, ::-1]  # negative stride
    for other in (read_only, reversed_twice, np.asfortranarray(image)):
        (result,) = predictor.predict([other])
        assert_detections_close(result, expected, box_atol=0, other_atol=0)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_rejected(predictor, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be at least 1; got {batch_size}"):
        predictor.predict([np.zeros((5, 5, 3), np.uint8)], batch_size=batch_size)


@pytest.mark.parametrize("batch_size", [2.0, "4", None, True])
def test_a_batch_size_that_is_no_integer_is_rejected(predictor, batch_size):
    with pytest.raises(TypeError, match=f"batch_size must be an integer; got {batch_size!r}"):
        predictor.predict([], batch_size)


def test_config_categories_and_device_are_those_of_the_detector(predictor):
    detector = predictor.detector
    assert predictor.config is detector.config
    assert predictor.categories is detector.categories
    assert predictor.device == detector.device == torch.device("cpu")


def test_to_moves_the_weights_and_returns_the_predictor(predictor):
    assert predictor.to("meta") is predictor
    assert predictor.device == predictor.detector.device == torch.device("meta")
    assert {tensor.device.type for tensor in predictor.detector.state_dict().values()} == {"meta"}


def test_load_detector_returns_a_predictor_that_predicts(full_detector, tmp_path):
    image = random_image(64, 80)
    (expected,) = Predictor(full_detector).predict([image])
    save_detector(full_detector, tmp_path)
    loaded = load_detector(tmp_path)
    assert isinstance(loaded, Predictor)
    assert isinstance(loaded.detector, Detector)
    assert not loaded.detector.training
    (result,) = loaded.predict([image])
    assert_detections_close(result, expected, box_atol=0, other_atol=0)
    assert result.keypoints.equal(expected.keypoints)


def test_load_detector_applies_inference_settings(full_detector, tmp_path):
    save_detector(full_detector, tmp_path)
    loaded = load_detector(tmp_path, detections_per_image=2)
    assert loaded.config.box.detections_per_image == 2
    assert len(loaded.predict([random_image(64, 80)])[0]) == 2
    with pytest.raises(TypeError, match="no_such_setting"):
        load_detector(tmp_path, no_such_setting=1)


def test_load_detector_predicts_in_half_precision(full_detector, tmp_path):
    save_detector(full_detector, tmp_path)
    image = random_image(64, 80)
    exact, half = (
        load_detector(tmp_path, precision=precision).predict([image])[0]
        for precision in ("fp32", "bf16")
    )
    assert half.boxes.dtype == torch.float32
    assert not half.scores.equal(exact.scores)
    # Random weights: only the best detections are sure to be the same.
    torch.testing.assert_close(half.scores[:3], exact.scores[:3], rtol=0.05, atol=0.02)


def test_a_precision_that_the_device_lacks_is_rejected_before_the_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        load_detector(tmp_path / "nowhere", precision="fp16")
    with pytest.raises(ValueError, match="precision must be fp32, bf16 or fp16; got 'half'"):
        load_detector(tmp_path / "nowhere", precision="half")
