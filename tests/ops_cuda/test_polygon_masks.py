import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

import ops_cuda
from ops_cuda.polygon_masks import rasterize_polygons_reference
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import random_boxes, random_outlines

IMPLEMENTATIONS = both_implementations(rasterize_polygons_reference)


def one_object(*outlines):
    """Return vertices and offsets of one object with these polygons, each a list of (x, y)."""
    lengths = torch.tensor([0, *(len(outline) for outline in outlines)])
    vertices = [torch.as_tensor(outline).reshape(-1, 2).float() for outline in outlines]
    offsets = torch.tensor([0, len(outlines)])
    return torch.cat([torch.empty(0, 2), *vertices]), lengths.cumsum(0), offsets


def square(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def rasterize(ops, outlines, box, side):
    return ops.rasterize_polygons(
        *one_object(*outlines), torch.tensor([0]), torch.tensor([box]).float(), side
    )[0]


def pycocotools_mask(outlines, box, side):
    """Return pycocotools' mask of the polygons moved and scaled into the box, as in detectron2."""
    corner, scale = box[:2].astype(float), side / np.maximum(box[2:].astype(float) - box[:2], 0.1)
    # pycocotools takes a list of four numbers for a box, and fewer than three vertices have no area
    moved = [
        ((outline - corner) * scale).reshape(-1).tolist()
        for outline in outlines
        if len(outline) > 2
    ]
    if not moved:
        return np.zeros((side, side), np.uint8)
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(moved, side, side)))


@IMPLEMENTATIONS
def test_edges_cross_columns_and_rows_in_their_middle_fifth(ops):
    # One pixel per cell. A left edge at x = 1.5 is on grid line 8 = (int)(7.5 + 0.5), beyond the
    # middle of column 1, which is between lines 7 and 8. At 1.4 it is before the middle.
    box = [0, 0, 5, 5]
    assert rasterize(ops, [square(1.4, 0, 5, 5)], box, 5)[0].tolist() == [0, 1, 1, 1, 1]
    assert rasterize(ops, [square(1.5, 0, 5, 5)], box, 5)[0].tolist() == [0, 0, 1, 1, 1]
    # A top edge on grid line y begins in row (y + 2) / 5: line 7 is the last one of row 1.
    assert rasterize(ops, [square(0, 1.5, 5, 5)], box, 5)[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert rasterize(ops, [square(0, 1.4, 5, 5)], box, 5)[:, 0].tolist() == [0, 1, 1, 1, 1]


@IMPLEMENTATIONS
def test_known_masks(ops):
    assert rasterize(ops, [square(0, 0, 5, 10)], [0, 0, 10, 10], 4).tolist() == [[1, 1, 0, 0]] * 4
    triangle = rasterize(ops, [[(0, 0), (4, 4), (0, 4)]], [0, 0, 4, 4], 4)
    # The points (5 c + 2, 5 c + 2) of the diagonal set its cells.
    assert triangle.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert rasterize(ops, [square(-100, -100, 100, 100)], [3, 4, 5, 9], 7).eq(1).all()


@IMPLEMENTATIONS
def test_an_object_is_the_union_of_its_polygons(ops):
    overlapping = [square(0, 0, 6, 6), square(4, 4, 10, 10)]
    assert rasterize(ops, overlapping, [0, 0, 10, 10], 10).sum() == 36 + 36 - 4


@IMPLEMENTATIONS
def test_a_self_intersecting_polygon_follows_the_even_odd_rule(ops):
    twice_around = [*square(0, 0, 10, 10), (0, 0), *square(2, 2, 8, 8), (2, 2)]
    assert rasterize(ops, [twice_around], [0, 0, 10, 10], 10).sum() == 100 - 36


@IMPLEMENTATIONS
def test_polygons_without_area_give_an_empty_mask(ops):
    box = [0, 0, 10, 10]
    assert rasterize(ops, [], box, 5).sum() == 0
    assert rasterize(ops, [[], [(1, 1)], [(1, 1), (8, 8)]], box, 5).sum() == 0
    assert rasterize(ops, [[(1, 1), (5, 5), (8, 8)]], box, 5).sum() == 0


@IMPLEMENTATIONS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_draw_nothing(ops, value):
    box, good = [0, 0, 10, 10], square(0, 0, 5, 10)
    for coordinate in range(4):
        invalid = list(box)
        invalid[coordinate] = value
        assert rasterize(ops, [good], invalid, 4).sum() == 0
    invalid_polygon = square(0, 0, 10, value)
    # Only that polygon is skipped, not its object.
    assert rasterize(ops, [invalid_polygon], box, 4).sum() == 0
    assert rasterize(ops, [invalid_polygon, good], box, 4).equal(rasterize(ops, [good], box, 4))


@IMPLEMENTATIONS
def test_a_box_side_without_extent_counts_as_a_tenth_of_a_pixel(ops):
    outline = [(4, 4), (4.1, 4), (4, 4.1)]
    expected = rasterize(ops, [outline], [4, 4, 4.1, 4.1], 8)
    assert 0 < expected.sum() < 64
    assert rasterize(ops, [outline], [4, 4, 4, 4], 8).equal(expected)
    assert rasterize(ops, [outline], [4, 4, 2, 4.05], 8).equal(expected)


@IMPLEMENTATIONS
def test_coordinates_beyond_every_integer_count_as_far_away(ops):
    far = [(-3e38, -3e38), (3e38, -3e38), (3e38, 3e38), (-3e38, 3e38)]
    assert rasterize(ops, [far], [0, 0, 1e-3, 1e-3], 6).eq(1).all()
    assert rasterize(ops, [square(0, 0, 9, 9)], [-3e38, -3e38, 3e38, 3e38], 6).sum() == 0
    assert rasterize(ops, [square(1e30, 0, 3e38, 9)], [0, 0, 9, 9], 6).sum() == 0


@settings(deadline=None, max_examples=40)
@given(
    objects=st.integers(1, 12),
    boxes=st.integers(0, 30),
    side=st.sampled_from([1, 14, 28, 33]),
    far=st.sampled_from([1, 1e4, 1e8, 1e20]),
    seed=st.integers(0, 2**16),
)
def test_the_reference_agrees_in_every_bit(objects, boxes, side, far, seed):
    vertices, *offsets = random_outlines(objects, seed)
    vertices[::7] *= far
    regions = random_boxes(boxes, largest=80.0, seed=seed)
    object_indices = torch.randint(
        0, objects, (boxes,), generator=torch.Generator().manual_seed(seed)
    )
    arguments = (vertices, *offsets, object_indices, regions, side)
    actual = ops_cuda.rasterize_polygons(*arguments)
    assert actual.shape == (boxes, side, side)
    assert actual.equal(rasterize_polygons_reference(*arguments))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), zoom=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_object_and_box_scaled_together_give_the_same_mask(seed, zoom):
    vertices, *offsets = random_outlines(3, seed)
    region, object_indices = (
        random_boxes(1, seed=seed) + torch.tensor([0, 0, 1, 1]),
        torch.tensor([2]),
    )
    mask = ops_cuda.rasterize_polygons(vertices, *offsets, object_indices, region, 28)
    # powers of two: no rounding that could move a vertex to another grid line
    scaled = ops_cuda.rasterize_polygons(
        vertices * zoom, *offsets, object_indices, region * zoom, 28
    )
    assert mask.equal(scaled)


def points(rng, kind, count):
    """Return (count, 2) vertices of a polygon that may intersect itself."""
    match kind:
        case "anywhere":
            return rng.random((count, 2)) * 100
        case "on the grid":  # vertices and box on fifths: every rounding is a tie
            return rng.integers(-20, 500, (count, 2)) / 5
        case "on pixels":
            return rng.integers(0, 100, (count, 2))
        case "tiny":
            return 50 + 0.3 * rng.normal(size=(count, 2))
        case "far away":
            return rng.normal(size=(count, 2)) * 10 ** rng.uniform(0, 3.5)


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(["anywhere", "on the grid", "on pixels", "tiny", "far away"]),
    side=st.sampled_from([1, 2, 7, 14, 28, 32, 33, 56]),
    polygons=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_masks_of_any_polygons_equal_those_of_pycocotools(kind, side, polygons, seed):
    rng = np.random.default_rng(seed)
    outlines = [points(rng, kind, rng.integers(1, 40)).astype(np.float32) for _ in range(polygons)]
    corner, extent = rng.random(2) * 60, 10 ** rng.uniform(-2, 2.2, 2)
    if kind.startswith("on"):
        corner, extent = corner.round(), np.full(2, side * rng.choice([0.5, 1, 2]))
    box = np.concatenate([corner, corner + extent]).astype(np.float32)
    actual = rasterize(ops_cuda, outlines, box.tolist(), side)
    assert np.array_equal(actual.numpy(), pycocotools_mask(outlines, box, side))


def test_masks_of_real_objects_equal_those_of_pycocotools(coco_tiny):
    records = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    rng = np.random.default_rng(0)
    compared = 0
    for record in records["annotations"]:
        if record["iscrowd"]:
            continue
        outlines = [np.array(p, np.float32).reshape(-1, 2) for p in record["segmentation"]]
        x, y, width, height = record["bbox"]
        # proposals of the object, as the first stage produces them
        noise = 0.15 * rng.normal(size=(4, 4)) * [width, height, width, height]
        boxes = (noise + np.array([x, y, x + width, y + height])).astype(np.float32)
        actual = ops_cuda.rasterize_polygons(
            *one_object(*outlines), torch.zeros(4).long(), torch.from_numpy(boxes), 28
        )
        for mask, box in zip(actual.numpy(), boxes, strict=True):
            assert np.array_equal(mask, pycocotools_mask(outlines, box, 28)), record["id"]
            compared += 1
    assert compared > 3000


@pytest.mark.parametrize("side", [112, 300])
def test_large_masks_equal_those_of_pycocotools(side):
    vertices, polygon_offsets, object_offsets = random_outlines(6)
    bounds = polygon_offsets[object_offsets[5] : object_offsets[6] + 1].tolist()
    outlines = [vertices[a:b].numpy() for a, b in pairwise(bounds)]
    box = np.array([20, 15, 90, 80], np.float32)
    actual = rasterize(ops_cuda, outlines, box.tolist(), side)
    assert np.array_equal(actual.numpy(), pycocotools_mask(outlines, box, side))
    assert 0 < actual.mean() < 1


def test_input_strides_and_types_do_not_matter():
    vertices, polygon_offsets, object_offsets = random_outlines(9)
    regions, object_indices = random_boxes(20, largest=80.0), torch.arange(20) % 9
    expected = ops_cuda.rasterize_polygons(
        vertices, polygon_offsets, object_offsets, object_indices, regions, 14
    )
    actual = ops_cuda.rasterize_polygons(
        torch.cat([vertices, vertices], 1)[:, :2],
        polygon_offsets.repeat_interleave(2)[::2],
        object_offsets.repeat_interleave(2)[::2],
        object_indices.repeat_interleave(3)[::3],
        regions.double(),
        14,
    )
    assert actual.equal(expected)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = [vertices.to(dtype), regions.to(dtype)]
        actual = ops_cuda.rasterize_polygons(
            rounded[0], polygon_offsets, object_offsets, object_indices, rounded[1], 14
        )
        expected = ops_cuda.rasterize_polygons(
            rounded[0].float(),
            polygon_offsets,
            object_offsets,
            object_indices,
            rounded[1].float(),
            14,
        )
        assert actual.dtype == torch.float32 and actual.equal(expected)


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    arguments = (*random_outlines(30), torch.arange(600) % 30, random_boxes(600, largest=80.0), 28)
    one, two = two_thread_counts(lambda: ops_cuda.rasterize_polygons(*arguments))
    assert one.equal(two)


SQUARE = (*one_object(square(0, 0, 9, 9)), torch.tensor([0]), torch.tensor([[0.0, 0, 9, 9]]), 4)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, torch.tensor([0, 9]), "polygon_offsets ends at 9, beyond the 4 entries"),
        (1, torch.tensor([1, 4]), "polygon_offsets must start with 0"),
        (2, torch.tensor([0, 1, 0]), "object_offsets must ascend"),
        (2, torch.tensor([0, 3]), "object_offsets ends at 3, beyond the 1 entries"),
        (3, torch.tensor([1]), r"object_indices\[0\] is 1; there are 1 objects"),
        (3, torch.tensor([-1]), r"object_indices\[0\] is -1; there are 1 objects"),
    ],
)
def test_indices_out_of_range_raise(position, value, message):
    arguments = [*SQUARE]
    arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        ops_cuda.rasterize_polygons(*arguments)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.zeros(8), r"vertices must be \(N, 2\)"),
        (1, torch.tensor([0.0, 4.0]), "polygon_offsets must be"),
        (2, torch.empty(0).long(), "object_offsets must start with 0"),
        (3, torch.tensor([0, 0]), "lengths disagree"),
        (4, torch.zeros(4), r"boxes must be \(N, 4\)"),
        (5, 0, "side must be positive"),
    ],
)
def test_invalid_arguments_are_named(position, value, message):
    arguments = [*SQUARE]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        ops_cuda.rasterize_polygons(*arguments)
