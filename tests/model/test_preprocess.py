import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from model import Predictor
from model.preprocess import canvas_size, pad_batch, resize_image, resized_size
from model.structures import ImageBatch, ImageSize

SIDES = st.integers(1, 4000)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (ImageSize(480, 640), ImageSize(800, 1067)),
        (ImageSize(640, 480), ImageSize(1067, 800)),
        (ImageSize(300, 900), ImageSize(444, 1333)),
        (ImageSize(800, 1000), ImageSize(800, 1000)),
    ],
)
def test_rounding_to_nearest_gives_the_published_sizes_of_coco_images(size, expected):
    assert resized_size(size, 800, 1333) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (ImageSize(480, 640), ImageSize(800, 1066)),  # 1066.67
        (ImageSize(640, 427), ImageSize(1199, 800)),  # 1199.06
        (ImageSize(300, 900), ImageSize(444, 1332)),  # 444.33 is 444, three times that 1332
        (ImageSize(612, 408), ImageSize(1200, 800)),
        (ImageSize(357, 640), ImageSize(744, 1333)),  # 743.55 is 744, which gives 1333.78
        (ImageSize(200, 640), ImageSize(417, 1334)),  # 416.56 is 417: above the limit, as there
        (ImageSize(800, 1000), ImageSize(800, 1000)),
    ],
)
def test_rounding_the_long_side_down_matches_maskrcnn_benchmark(size, expected):
    assert resized_size(size, 800, 1333, "down") == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (ImageSize(480, 640), ImageSize(800, 1066)),
        (ImageSize(426, 640), ImageSize(800, 1201)),  # 1201.88
        (ImageSize(333, 500), ImageSize(800, 1201)),
        (ImageSize(1000, 400), ImageSize(1333, 533)),
    ],
)
def test_rounding_both_sides_down_matches_torchvision(size, expected):
    assert resized_size(size, 800, 1333, "floor") == expected
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3)
    assert transform.resize(torch.zeros(3, *size), None)[0].shape[1:] == expected


@given(SIDES, SIDES, st.integers(1, 1000), st.integers(0, 1000))
def test_one_side_reaches_its_limit_and_none_exceeds_it(height, width, short, extra):
    size = resized_size(ImageSize(height, width), short, short + extra)
    assert min(size) <= short
    assert max(size) <= short + extra
    assert min(size) == short or max(size) == short + extra


def test_resizing_gives_the_bits_of_pillow():
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    resized = resize_image(torch.from_numpy(pixels), ImageSize(61, 45)).numpy()
    expected = np.array(Image.fromarray(pixels).resize((45, 61), Image.Resampling.BILINEAR))
    assert np.array_equal(resized, expected)


def test_a_batch_has_each_image_in_its_corner_and_zeros_elsewhere():
    images = [
        torch.full((20, 50, 3), 7, dtype=torch.uint8),
        torch.full((40, 30, 3), 9, dtype=torch.uint8),
    ]
    batch = pad_batch(images, [ImageSize(10, 25), ImageSize(40, 30)], (1, 2))
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert (batch.pixels[0, :, :20, :50] == 7).all()
    assert batch.pixels.long().sum() == 3 * (7 * 20 * 50 + 9 * 40 * 30)
    assert batch.sizes == (ImageSize(20, 50), ImageSize(40, 30))
    assert batch.original_sizes == (ImageSize(10, 25), ImageSize(40, 30))


def test_the_canvas_can_be_larger_than_the_images_but_not_smaller():
    image = torch.zeros(20, 50, 3, dtype=torch.uint8)
    batch = pad_batch([image], [ImageSize(20, 50)], canvas=ImageSize(96, 32))
    assert batch.pixels.shape[2:] == (96, 64)
    assert canvas_size([ImageSize(33, 64)]) == ImageSize(64, 64)


def test_an_empty_batch_is_rejected():
    with pytest.raises(ValueError, match="at least one image"):
        pad_batch([], [])


def random_images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((50, 70), (200, 120))]


def predict_step_by_step(detector, images):
    """Resize and pad images as uint8, then let the detector normalize them."""
    originals = [ImageSize(*image.shape[:2]) for image in images]
    resized = [
        resize_image(torch.from_numpy(image), resized_size(size, 64, 96))
        for image, size in zip(images, originals, strict=True)
    ]
    with torch.inference_mode():
        return detector(pad_batch(resized, originals))


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_resizing_and_normalizing_in_one_pass_equals_two_steps_bit_for_bit(detector, autocast):
    images = random_images()
    detector.eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        # The images are sorted by size, as the predictor would.
        expected = predict_step_by_step(detector, images)
        detections = Predictor(detector).predict(images)
    assert sum(map(len, detections)) > 0
    for one, other in zip(detections, expected, strict=True):
        assert one.boxes.equal(other.boxes)
        assert one.scores.equal(other.scores)


def test_read_only_images_are_predicted_without_a_warning(detector, recwarn):
    [image, _] = random_images()
    flipped = image[:, ::-1]
    flipped.flags.writeable = False
    Predictor(detector).predict([flipped])
    assert not recwarn.list


def backbone_input(detector, batch):
    """Return the pixels that the backbone reads."""
    inputs = []
    with detector.backbone.register_forward_pre_hook(lambda _, args: inputs.append(args[0])):
        detector.features(batch)
    [pixels] = inputs
    return pixels


def test_normalized_pixels_are_rounded_once_to_the_autocast_dtype(detector):
    [image, _] = random_images()
    batch = pad_batch([torch.from_numpy(image)], [ImageSize(50, 70)])
    exact = backbone_input(detector, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert backbone_input(detector, batch).equal(exact.bfloat16())
    assert exact.dtype == torch.float32
    assert not exact.requires_grad


def test_floating_point_pixels_are_not_normalized_again(detector):
    size = (ImageSize(32, 32),)
    normalized = ImageBatch(torch.zeros(1, 3, 32, 32), size, size)
    assert backbone_input(detector, normalized) is normalized.pixels
