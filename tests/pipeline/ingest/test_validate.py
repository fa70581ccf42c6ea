"""Validation keeps, clips or quarantines a record, each time for a stated reason."""

import io
import math

import numpy as np
import pycocotools.mask as coco_masks
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from model.structures import ImageSize
from pipeline.ingest.load_image import validate_image
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.ingest.validate import validate_annotation
from pipeline.shards.decoding import DEFAULT_DECODING

SIZE = ImageSize(40, 60)
LABELS = {7: 1, 9: 2}


def annotation(**changes):
    return {
        "id": 1,
        "category_id": 9,
        "bbox": [10, 10, 20, 15],
        "segmentation": [[10, 10, 30, 10, 30, 25]],
        "area": 150.0,
        "iscrowd": 0,
    } | changes


def reason_of(**changes):
    with pytest.raises(InvalidRecordError) as caught:
        validate_annotation(annotation(**changes), SIZE, LABELS)
    return caught.value.reason


def test_a_valid_annotation_is_kept_unchanged():
    valid = validate_annotation(annotation(), SIZE, LABELS)
    assert valid.label == 2
    assert valid.box == (10, 10, 30, 25)
    assert valid.polygons == ((10, 10, 30, 10, 30, 25),)
    assert (valid.rle, valid.iscrowd, valid.area, valid.overshoot) == (None, False, 150, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category_id": 1}, "unknown category"),
        ({"bbox": [70, 10, 5, 5]}, "box outside its image"),
        ({"bbox": [-9, 10, 9, 5]}, "box outside its image"),
        ({"bbox": [10, 10, 0, 5]}, "degenerate box"),
        ({"bbox": [0.2, 0.3, 0.5, 0.4]}, "box in relative coordinates"),
        ({"bbox": [10, 10, 30, 25]}, "mask in other coordinates than its box"),  # x1 y1 x2 y2
        ({"bbox": [10, 10, 5, -3]}, "degenerate box"),
        ({"bbox": [10, math.nan, 5, 3]}, "non-finite coordinates"),
        ({"bbox": [10, 10, math.inf, 3]}, "non-finite coordinates"),
        ({"bbox": [10, 10, 5]}, "malformed annotation"),
        ({"bbox": None, "segmentation": None}, "malformed annotation"),
        ({"bbox": "1234"}, "malformed annotation"),
        ({"bbox": [10**400, 0, 1, 1]}, "malformed annotation"),
        ({"area": [1]}, "malformed annotation"),
        ({"iscrowd": "yes"}, "malformed annotation"),
        ({"iscrowd": 2}, "malformed annotation"),
        ({"category_id": [9]}, "unknown category"),
        ({"category_id": True}, "unknown category"),
        ({"bbox": "abcd"}, "malformed annotation"),
        ({"segmentation": [[1, 2, 3, 4]]}, "invalid polygon"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "invalid polygon"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "invalid polygon"),
        ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "non-finite coordinates"),
        ({"segmentation": {"size": [40, 60], "counts": [5, 5]}}, "invalid RLE mask"),
        ({"segmentation": {"size": [60, 40], "counts": [0, 2400]}}, "invalid RLE mask"),
        ({"segmentation": {"size": [40, 60], "counts": [-1, 2401]}}, "invalid RLE mask"),
        ({"segmentation": {"size": [40, 60]}}, "invalid RLE mask"),
    ],
)
def test_an_invalid_annotation_is_quarantined_with_its_reason(changes, reason):
    assert reason_of(**changes) == reason


@given(st.floats(-30, 80), st.floats(-30, 60), st.floats(0.02, 90), st.floats(0.02, 90))
def test_a_box_is_clipped_to_its_image(x, y, width, height):
    assume(max(x + width, y + height) > 1)
    inside = (max(x, 0), max(y, 0), min(x + width, 60), min(y + height, 40))
    given = annotation(bbox=[x, y, width, height], segmentation=[])
    if inside[2] - inside[0] < 0.01 or inside[3] - inside[1] < 0.01:
        with pytest.raises(InvalidRecordError, match="outside"):
            validate_annotation(given, SIZE, LABELS)
        return
    valid = validate_annotation(given, SIZE, LABELS)
    assert valid.box == inside
    overshoot = max(-x, -y, x + width - 60, y + height - 40)
    assert valid.overshoot == (pytest.approx(overshoot) if overshoot > 0.01 else 0)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_rle_mask_is_stored_compressed(compressed):
    bitmap = np.zeros(SIZE, dtype=np.uint8, order="F")
    bitmap[5:20, 7:9] = 1
    encoded = coco_masks.encode(bitmap)
    counts = encoded["counts"].decode() if compressed else uncompressed(bitmap)
    mask = {"size": list(SIZE), "counts": counts}
    given = annotation(bbox=[7, 5, 2, 15], segmentation=mask, iscrowd=1)
    valid = validate_annotation(given, SIZE, LABELS)
    assert valid.iscrowd and valid.polygons == ()
    assert np.array_equal(coco_masks.decode({"size": list(SIZE), "counts": valid.rle}), bitmap)


def uncompressed(bitmap):
    flat = np.concatenate([[0], bitmap.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes])).tolist()


def test_an_annotation_without_segmentation_is_an_object_without_mask():
    valid = validate_annotation(annotation(segmentation=[]), SIZE, LABELS)
    assert not valid.has_mask


def with_keypoints(keypoints, count=2):
    return validate_annotation(annotation(keypoints=keypoints), SIZE, LABELS, count)


visibilities = st.sampled_from([0, 1, 2])
points = st.tuples(st.floats(-20, 90), st.floats(-20, 70), visibilities)


@given(st.lists(points, min_size=1, max_size=6))
def test_keypoints_labeled_in_the_image_move_by_half_a_pixel_and_others_become_zero(given_points):
    valid = with_keypoints([v for point in given_points for v in point], len(given_points))
    kept = np.array(valid.keypoints).reshape(-1, 3)
    outside = 0
    for (x, y, visibility), point in zip(given_points, kept.tolist(), strict=True):
        inside = -0.5 <= x <= 60 and -0.5 <= y <= 40
        outside += visibility > 0 and not inside
        labeled = visibility > 0 and inside
        assert point == ([x + 0.5, y + 0.5, visibility] if labeled else [0, 0, 0])
    assert valid.points_outside == outside
    assert valid.num_keypoints == (kept[:, 2] > 0).sum()


@pytest.mark.parametrize("nothing", [None, [], ()])
def test_an_object_without_keypoints_has_all_of_them_unlabeled(nothing):
    assert with_keypoints(nothing).keypoints == (0.0,) * 6


def test_keypoints_are_left_out_if_the_dataset_defines_none():
    assert with_keypoints([1, 2, 2], count=0).keypoints == ()


@pytest.mark.parametrize(
    ("keypoints", "reason"),
    [
        ([1, 2, 2], "invalid keypoints"),
        ([1, 2, 2, 3, 4], "invalid keypoints"),
        ([1, 2, 2, 3, 4, 3], "invalid keypoints"),
        ([1, 2, 2, 3, 4, -1], "invalid keypoints"),
        ([1, 2, 2, 3, 4, 0.5], "invalid keypoints"),
        ([[1, 2, 2], [3, 4, 1]], "invalid keypoints"),
        (["a", 2, 2, 3, 4, 1], "invalid keypoints"),
        ({"nose": [1, 2]}, "invalid keypoints"),
        (7, "invalid keypoints"),
        ([1, 2, 2, math.nan, 4, 1], "non-finite coordinates"),
        ([1, 2, 2, 3, math.inf, 1], "non-finite coordinates"),
        ([1, 2, math.nan, 3, 4, 1], "non-finite coordinates"),
    ],
)
def test_invalid_keypoints_are_quarantined_with_their_reason(keypoints, reason):
    with pytest.raises(InvalidRecordError) as caught:
        with_keypoints(keypoints)
    assert caught.value.reason == reason


def encode(kind, mode="RGB", size=(60, 40)):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA")]
)
def test_complete_images_of_any_color_mode_are_valid(kind, mode):
    validate_image(encode(kind, mode), SIZE, DEFAULT_DECODING)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_a_truncated_image_is_quarantined(kind, share):
    data = encode(kind)
    with pytest.raises(InvalidRecordError) as caught:
        validate_image(data[: int(len(data) * share)], SIZE, DEFAULT_DECODING)
    assert caught.value.reason == "truncated or unreadable image"


def test_an_image_of_another_size_is_quarantined():
    with pytest.raises(InvalidRecordError) as caught:
        validate_image(encode("JPEG"), ImageSize(60, 40), DEFAULT_DECODING)
    assert caught.value.reason == "image size differs from annotations"
    assert "60x40" in caught.value.detail and "40x60" in caught.value.detail
