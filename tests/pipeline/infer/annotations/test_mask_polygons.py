"""Polygons cover the pixels of their masks."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from pycocotools import mask as rle_codec

from pipeline.infer.annotations.mask_polygons import mask_polygons


def draw(polygons, shape):
    """Rasterize as COCO does."""
    if not polygons:
        return np.zeros(shape, np.uint8)
    flat = [polygon.ravel().tolist() for polygon in polygons]
    return rle_codec.decode(rle_codec.merge(rle_codec.frPyObjects(flat, *shape)))


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def disk(side, radius, center=None):
    y, x = np.mgrid[:side, :side] - (side / 2 if center is None else center)
    return (x**2 + y**2 <= radius**2).astype(np.uint8)


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))
)
def test_small_masks_of_any_shape_keep_every_pixel(mask):
    """Noise has parts that touch at corners, holes, and holes with parts in them."""
    np.testing.assert_array_equal(draw(mask_polygons(mask), mask.shape), mask)


@pytest.mark.parametrize(("radius", "points"), [(10, 60), (60, 60), (400, 100)])
def test_large_masks_have_few_points_and_almost_all_pixels(radius, points):
    mask = disk(2 * radius + 9, radius)
    [polygon] = mask_polygons(mask)
    assert len(polygon) < points
    assert overlap(draw([polygon], mask.shape), mask) > 0.985


def test_a_part_without_a_neighbor_is_a_polygon_of_its_own():
    mask = np.zeros((40, 60), np.uint8)
    mask[5:15, 5:20], mask[25:35, 30:50] = 1, 1
    first, second = mask_polygons(mask)
    assert (*first.min(axis=0), *first.max(axis=0)) == (5, 5, 20, 15)
    assert (*second.min(axis=0), *second.max(axis=0)) == (30, 25, 50, 35)


def test_holes_are_cut_out_of_the_outline():
    mask = disk(120, 50) - disk(120, 12, center=45) - disk(120, 10, center=75)
    [polygon] = mask_polygons(mask)
    drawn = draw([polygon], mask.shape)
    assert not drawn[45, 45] and not drawn[75, 75]
    assert overlap(drawn, mask) > 0.985


def test_thin_objects_and_small_parts_of_large_ones_keep_every_pixel():
    x = np.arange(400)
    y = (50 + 20 * np.sin(x / 30)).astype(int)
    crack = np.zeros((100, 400), np.uint8)
    for offset in range(3):
        crack[y + offset, x] = 1
    line = np.ones((1, 3000), np.uint8)
    for mask in (crack, line):
        np.testing.assert_array_equal(draw(mask_polygons(mask), mask.shape), mask)
    specks = np.zeros((450, 450), np.uint8)
    specks[10:410, 10:410], specks[420:422, 5:7], specks[430, 30] = 1, 1, 1
    drawn = draw(mask_polygons(specks), specks.shape)
    np.testing.assert_array_equal(drawn[415:], specks[415:])


def test_many_holes_take_little_time():
    mask = np.ones((300, 300), np.uint8)
    mask[1::3, 1::3] = 0
    [polygon] = mask_polygons(mask)
    np.testing.assert_array_equal(draw([polygon], mask.shape), mask)


def test_an_empty_mask_has_no_polygon():
    assert mask_polygons(np.zeros((5, 6), np.uint8)) == []


def test_a_mask_at_the_border_stays_inside_the_image():
    mask = np.ones((7, 9), np.uint8)
    [polygon] = mask_polygons(mask)
    assert (polygon.min(axis=0) >= 0).all() and (polygon.max(axis=0) <= (9, 7)).all()
    np.testing.assert_array_equal(draw([polygon], mask.shape), mask)


def test_outlines_of_real_objects_agree_with_their_masks(coco_tiny):
    from pycocotools.coco import COCO

    dataset = COCO(str(coco_tiny / "annotations" / "instances_val2017.json"))
    overlaps, count = [], 0
    for annotation in dataset.loadAnns(dataset.getAnnIds())[:300]:
        mask = dataset.annToMask(annotation)
        if mask.any():
            polygons = mask_polygons(mask)
            overlaps.append(overlap(draw(polygons, mask.shape), mask))
            count += sum(map(len, polygons))
    assert np.mean(overlaps) > 0.997
    assert min(overlaps) > 0.98
    assert count / len(overlaps) < 80
