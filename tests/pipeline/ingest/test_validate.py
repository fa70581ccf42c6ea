"""Laws of the judge: what is kept, clipped or refused, and for which reason."""

import io
import math

import numpy as np
import pycocotools.mask as coco_masks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.structures import ImageSize
from pipeline.ingest.validate import AnnotationError, validate_annotation, validate_image

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
    with pytest.raises(AnnotationError) as caught:
        validate_annotation(annotation(**changes), SIZE, LABELS)
    return caught.value.reason


def test_a_good_annotation_is_kept_as_it_is():
    judged = validate_annotation(annotation(), SIZE, LABELS)
    assert judged.label == 2
    assert judged.box == (10, 10, 30, 25)
    assert judged.polygons == ((10, 10, 30, 10, 30, 25),)
    assert (judged.rle, judged.iscrowd, judged.area, judged.overshoot) == (None, False, 150, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"category_id": 1}, "unknown category"),
        ({"bbox": [70, 10, 5, 5]}, "box outside its image"),
        ({"bbox": [-9, 10, 9, 5]}, "box outside its image"),
        ({"bbox": [10, 10, 0, 5]}, "degenerate box"),
        ({"bbox": [10, 10, 5, -3]}, "degenerate box"),
        ({"bbox": [10, math.nan, 5, 3]}, "non-finite coordinates"),
        ({"bbox": [10, 10, math.inf, 3]}, "non-finite coordinates"),
        ({"bbox": [10, 10, 5]}, "malformed annotation"),
        ({"bbox": None}, "malformed annotation"),
        ({"bbox": "abcd"}, "malformed annotation"),
        ({"segmentation": [[1, 2, 3, 4]]}, "bad outline"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "bad outline"),
        ({"segmentation": [1, 2, 3, 4, 5, 6]}, "bad outline"),
        ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "non-finite coordinates"),
        ({"segmentation": {"size": [40, 60], "counts": [5, 5]}}, "bad run-length mask"),
        ({"segmentation": {"size": [60, 40], "counts": [0, 2400]}}, "bad run-length mask"),
        ({"segmentation": {"size": [40, 60], "counts": [-1, 2401]}}, "bad run-length mask"),
        ({"segmentation": {"size": [40, 60]}}, "bad run-length mask"),
    ],
)
def test_a_bad_annotation_is_refused_with_its_reason(changes, reason):
    assert reason_of(**changes) == reason


@given(st.floats(-30, 80), st.floats(-30, 60), st.floats(0.02, 90), st.floats(0.02, 90))
def test_a_box_partly_inside_is_its_intersection_with_the_image(x, y, width, height):
    inside = (max(x, 0), max(y, 0), min(x + width, 60), min(y + height, 40))
    seen = annotation(bbox=[x, y, width, height])
    if inside[2] - inside[0] < 0.01 or inside[3] - inside[1] < 0.01:
        with pytest.raises(AnnotationError, match="outside"):
            validate_annotation(seen, SIZE, LABELS)
        return
    judged = validate_annotation(seen, SIZE, LABELS)
    assert judged.box == inside
    far = max(-x, -y, x + width - 60, y + height - 40)
    assert judged.overshoot == (pytest.approx(far) if far > 0.01 else 0)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_run_length_mask_is_kept_in_compressed_form(compressed):
    bitmap = np.zeros(SIZE, dtype=np.uint8, order="F")
    bitmap[5:20, 7:9] = 1
    encoded = coco_masks.encode(bitmap)
    counts = encoded["counts"].decode() if compressed else uncompressed(bitmap)
    seen = annotation(segmentation={"size": list(SIZE), "counts": counts}, iscrowd=1)
    judged = validate_annotation(seen, SIZE, LABELS)
    assert judged.iscrowd and judged.polygons == ()
    assert np.array_equal(coco_masks.decode({"size": list(SIZE), "counts": judged.rle}), bitmap)


def uncompressed(bitmap):
    flat = np.concatenate([[0], bitmap.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], changes])).tolist()


def test_an_annotation_without_outline_is_an_object_without_mask():
    judged = validate_annotation(annotation(segmentation=[]), SIZE, LABELS)
    assert not judged.has_mask


def encode(kind, mode="RGB", size=(60, 40)):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA")]
)
def test_whole_images_of_any_colour_are_good(kind, mode):
    assert validate_image(encode(kind, mode), SIZE) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.97])
def test_a_truncated_image_is_found_out(kind, share):
    data = encode(kind)
    reason, _ = validate_image(data[: int(len(data) * share)], SIZE)
    assert reason == "truncated or unreadable image"


def test_an_image_of_another_size_is_found_out():
    reason, detail = validate_image(encode("JPEG"), ImageSize(60, 40))
    assert reason == "image size differs from its annotations"
    assert "60x40" in detail and "40x60" in detail
