"""Annotations as tools export them: partly damaged masks, missing boxes, areas that are wrong."""

import numpy as np
import pycocotools.mask as coco_masks
import pytest

from model.structures import ImageSize
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.ingest.validate import validate_annotation

SIZE = ImageSize(40, 60)
PART = [10, 10, 30, 10, 30, 25, 10, 25]


def validate(**changes):
    record = {"id": 1, "category_id": 1, "bbox": [10, 10, 20, 15], "segmentation": [PART]}
    return validate_annotation(record | changes, SIZE, {1: 1})


@pytest.mark.parametrize(
    "bad", [[], [1, 2, 3, 4], [*PART, 10], "abc", None, 3, [1e9] * 6, ["x"] * 6, [10**400] * 6]
)
def test_an_unusable_part_of_a_polygon_is_dropped_and_reported(bad):
    valid = validate(segmentation=[bad, PART])
    assert valid.polygons == (tuple(PART),)
    assert valid.corrections == (("polygon part left out", "1 unusable"),)


@pytest.mark.parametrize(
    ("given", "iscrowd"),
    [("0", False), ("1", True), ("False", False), ("true", True), (0.0, False), (None, False)],
)
def test_iscrowd_is_parsed_strictly(given, iscrowd):
    assert validate(iscrowd=given).iscrowd is iscrowd


@pytest.mark.parametrize("missing", [None, []])
def test_a_missing_box_is_that_of_the_mask(missing):
    valid = validate(bbox=missing)
    assert valid.box == (10, 10, 30, 25)
    assert valid.corrections == (("box computed from the mask", ""),)
    run_lengths = {"size": list(SIZE), "counts": [405, 5, 1990]}
    assert validate(bbox=missing, segmentation=run_lengths).box == (10, 5, 11, 10)


@pytest.mark.parametrize("given", [-300, 0, 1e9, float("nan"), 40])
def test_an_area_that_is_not_that_of_the_mask_is_corrected(given):
    valid = validate(area=given)
    assert valid.area == 300
    assert [reason for reason, _ in valid.corrections] == ["area corrected"]


def test_the_area_of_overlapping_and_protruding_parts_counts_pixels_once():
    beyond = [10, 30, 20, 30, 20, 60, 10, 60]
    valid = validate(bbox=[10, 10, 20, 50], segmentation=[PART, PART, beyond], area=None)
    assert valid.area == pytest.approx(300 + 100, abs=20)


@pytest.mark.parametrize(("given", "area"), [(None, 300), (-5, 300), (200, 200), (9e9, 300)])
def test_the_area_of_an_object_without_a_mask_fits_its_box(given, area):
    assert validate(segmentation=None, area=given).area == area


def transformed(change):
    return [value for pair in zip(PART[::2], PART[1::2], strict=True) for value in change(*pair)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, y: (x / 60, y / 40), "mask in other coordinates than its box"),
        (lambda x, y: (100 * x / 60, 100 * y / 40), "mask in other coordinates than its box"),
        (lambda x, y: (2 * x, 2 * y), "mask in other coordinates than its box"),
        (lambda x, y: (x / 2, y / 2), "mask in other coordinates than its box"),
        (lambda x, y: (y, x), "mask in other coordinates than its box"),
        (lambda x, y: (x + 28, y), "mask outside its box"),
        (lambda x, y: (x + 300, y), "mask outside its box"),
    ],
)
def test_a_mask_that_is_not_in_the_pixels_of_its_box_is_refused(change, reason):
    with pytest.raises(InvalidRecordError) as caught:
        validate(segmentation=[transformed(change)], bbox=[10, 10, 20, 14.5])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "part",
    [
        transformed(lambda x, y: (x + 3, y - 2)),
        transformed(lambda x, y: (x * 1.2 - 4, y * 1.2 - 3)),
        [10, 10, 12, 10, 12, 12, 10, 12],
        [10, 10, 30, 24, 30, 25],
    ],
)
def test_a_mask_may_poke_out_of_its_box_or_fill_little_of_it(part):
    assert validate(segmentation=[part]).polygons == (tuple(part),)


def test_a_stray_pixel_far_from_the_box_does_not_matter():
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[10:14, 10:14] = bitmap[39, 59] = 1
    counts = coco_masks.encode(bitmap)["counts"].decode()
    mask = {"size": list(SIZE), "counts": counts}
    assert validate(bbox=[10, 10, 4, 4], segmentation=mask).rle == counts


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c + "1", lambda c: "é" + c, lambda c: ""]
)
def test_run_lengths_that_training_cannot_decode_are_refused(damage):
    bitmap = np.zeros(SIZE, np.uint8, order="F")
    bitmap[10:25, 10:30] = 1
    counts = coco_masks.encode(bitmap)["counts"].decode()
    with pytest.raises(InvalidRecordError, match="invalid RLE mask"):
        validate(segmentation={"size": list(SIZE), "counts": damage(counts)})


def test_an_empty_run_length_mask_is_refused():
    with pytest.raises(InvalidRecordError, match="empty mask"):
        validate(segmentation={"size": list(SIZE), "counts": [2400]})
