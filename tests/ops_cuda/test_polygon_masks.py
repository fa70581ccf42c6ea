import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

import ops_cuda
from ops_cuda import reference
from tests.ops_cuda.scenes import random_boxes, random_outlines

IMPLEMENTATIONS = pytest.mark.parametrize("ops", [ops_cuda, reference], ids=["public", "twin"])


def one_object(*outlines):
    """Arguments of one object with these polygons, each a list of (x, y)."""
    lengths = torch.tensor([0, *(len(outline) for outline in outlines)])
    vertices = [torch.as_tensor(outline).reshape(-1, 2).float() for outline in outlines]
    offsets = torch.tensor([0, len(outlines)])
    return torch.cat([torch.empty(0, 2), *vertices]), lengths.cumsum(0), offsets


def square(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def draw(ops, outlines, box, side):
    return ops.rasterize_polygons(
        *one_object(*outlines), torch.tensor([0]), torch.tensor([box]).float(), side
    )[0]


def referee(outlines, box, side):
    """pycocotools' mask of the polygons moved and scaled into the box, as detectron2 draws it."""
    corner, scale = box[:2].astype(float), side / np.maximum(box[2:].astype(float) - box[:2], 0.1)
    # pycocotools takes a list of four numbers for a box, and less than three corners have no area
    moved = [
        ((outline - corner) * scale).reshape(-1).tolist()
        for outline in outlines
        if len(outline) > 2
    ]
    if not moved:
        return np.zeros((side, side), np.uint8)
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(moved, side, side)))


@IMPLEMENTATIONS
def test_a_column_is_crossed_in_its_middle_fifth_and_a_row_where_its_middle_fifth_is_reached(ops):
    # One pixel per cell. A left edge at x = 1.5 lies on grid line 8 = (int)(7.5 + 0.5): between
    # lines 7 and 8 is the middle of column 1, which the edge has passed. At 1.4 it has not.
    box = [0, 0, 5, 5]
    assert draw(ops, [square(1.4, 0, 5, 5)], box, 5)[0].tolist() == [0, 1, 1, 1, 1]
    assert draw(ops, [square(1.5, 0, 5, 5)], box, 5)[0].tolist() == [0, 0, 1, 1, 1]
    # A top edge on grid line y begins in row (y + 2) / 5: line 7 is the last of row 1.
    assert draw(ops, [square(0, 1.5, 5, 5)], box, 5)[:, 0].tolist() == [0, 0, 1, 1, 1]
    assert draw(ops, [square(0, 1.4, 5, 5)], box, 5)[:, 0].tolist() == [0, 1, 1, 1, 1]


@IMPLEMENTATIONS
def test_known_masks(ops):
    assert draw(ops, [square(0, 0, 5, 10)], [0, 0, 10, 10], 4).tolist() == [[1, 1, 0, 0]] * 4
    triangle = draw(ops, [[(0, 0), (4, 4), (0, 4)]], [0, 0, 4, 4], 4)
    # The diagonal's points (5 c + 2, 5 c + 2) set the diagonal's cells.
    assert triangle.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert draw(ops, [square(-100, -100, 100, 100)], [3, 4, 5, 9], 7).eq(1).all()


@IMPLEMENTATIONS
def test_polygons_of_one_object_are_united(ops):
    overlapping = [square(0, 0, 6, 6), square(4, 4, 10, 10)]
    assert draw(ops, overlapping, [0, 0, 10, 10], 10).sum() == 36 + 36 - 4


@IMPLEMENTATIONS
def test_a_polygon_that_crosses_itself_follows_the_even_odd_rule(ops):
    twice_around = [*square(0, 0, 10, 10), (0, 0), *square(2, 2, 8, 8), (2, 2)]
    assert draw(ops, [twice_around], [0, 0, 10, 10], 10).sum() == 100 - 36


@IMPLEMENTATIONS
def test_what_is_no_area_gives_an_empty_mask(ops):
    box = [0, 0, 10, 10]
    assert draw(ops, [], box, 5).sum() == 0
    assert draw(ops, [[], [(1, 1)], [(1, 1), (8, 8)]], box, 5).sum() == 0
    assert draw(ops, [[(1, 1), (5, 5), (8, 8)]], box, 5).sum() == 0


@IMPLEMENTATIONS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_draw_nothing(ops, value):
    box, good = [0, 0, 10, 10], square(0, 0, 5, 10)
    for place in range(4):
        broken = list(box)
        broken[place] = value
        assert draw(ops, [good], broken, 4).sum() == 0
    spoiled = square(0, 0, 10, value)
    # Only the polygon with the number is left out, not its object.
    assert draw(ops, [spoiled], box, 4).sum() == 0
    assert draw(ops, [spoiled, good], box, 4).equal(draw(ops, [good], box, 4))


@IMPLEMENTATIONS
def test_a_side_without_extent_counts_as_a_tenth_of_a_pixel(ops):
    outline = [(4, 4), (4.1, 4), (4, 4.1)]
    expected = draw(ops, [outline], [4, 4, 4.1, 4.1], 8)
    assert 0 < expected.sum() < 64
    assert draw(ops, [outline], [4, 4, 4, 4], 8).equal(expected)
    assert draw(ops, [outline], [4, 4, 2, 4.05], 8).equal(expected)


@IMPLEMENTATIONS
def test_numbers_beyond_every_integer_are_as_good_as_far_away(ops):
    far = [(-3e38, -3e38), (3e38, -3e38), (3e38, 3e38), (-3e38, 3e38)]
    assert draw(ops, [far], [0, 0, 1e-3, 1e-3], 6).eq(1).all()
    assert draw(ops, [square(0, 0, 9, 9)], [-3e38, -3e38, 3e38, 3e38], 6).sum() == 0
    assert draw(ops, [square(1e30, 0, 3e38, 9)], [0, 0, 9, 9], 6).sum() == 0


@settings(deadline=None, max_examples=40)
@given(
    objects=st.integers(1, 12),
    boxes=st.integers(0, 30),
    side=st.sampled_from([1, 14, 28, 33]),
    far=st.sampled_from([1, 1e4, 1e8, 1e20]),
    seed=st.integers(0, 2**16),
)
def test_compiled_and_twin_agree_in_every_bit(objects, boxes, side, far, seed):
    vertices, *offsets = random_outlines(objects, seed)
    vertices[::7] *= far
    regions = random_boxes(boxes, largest=80.0, seed=seed)
    wanted = torch.randint(0, objects, (boxes,), generator=torch.Generator().manual_seed(seed))
    arguments = (vertices, *offsets, wanted, regions, side)
    found = ops_cuda.rasterize_polygons(*arguments)
    assert found.shape == (boxes, side, side)
    assert found.equal(reference.rasterize_polygons(*arguments))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), zoom=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_object_and_box_scaled_together_give_the_same_mask(seed, zoom):
    vertices, *offsets = random_outlines(3, seed)
    region, wanted = random_boxes(1, seed=seed) + torch.tensor([0, 0, 1, 1]), torch.tensor([2])
    mask = ops_cuda.rasterize_polygons(vertices, *offsets, wanted, region, 28)
    # powers of two: no rounding that could move a corner to another grid line
    scaled = ops_cuda.rasterize_polygons(vertices * zoom, *offsets, wanted, region * zoom, 28)
    assert mask.equal(scaled)


def points(rng, kind, count):
    """(count, 2) float32: corners of a polygon that may cross itself."""
    match kind:
        case "anywhere":
            return rng.random((count, 2)) * 100
        case "on the grid":  # corners and box on fifths: every rounding is a tie
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
def test_any_polygons_are_drawn_bit_for_bit_as_by_the_referee(kind, side, polygons, seed):
    rng = np.random.default_rng(seed)
    outlines = [points(rng, kind, rng.integers(1, 40)).astype(np.float32) for _ in range(polygons)]
    corner, extent = rng.random(2) * 60, 10 ** rng.uniform(-2, 2.2, 2)
    if kind.startswith("on"):
        corner, extent = corner.round(), np.full(2, side * rng.choice([0.5, 1, 2]))
    box = np.concatenate([corner, corner + extent]).astype(np.float32)
    found = draw(ops_cuda, outlines, box.tolist(), side)
    assert np.array_equal(found.numpy(), referee(outlines, box, side))


def test_real_objects_are_drawn_bit_for_bit_as_by_the_referee(coco_tiny):
    records = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    rng = np.random.default_rng(0)
    drawn = 0
    for record in records["annotations"]:
        if record["iscrowd"]:
            continue
        outlines = [np.array(p, np.float32).reshape(-1, 2) for p in record["segmentation"]]
        x, y, width, height = record["bbox"]
        # proposals of the object, as the first stage makes them
        noise = 0.15 * rng.normal(size=(4, 4)) * [width, height, width, height]
        boxes = (noise + np.array([x, y, x + width, y + height])).astype(np.float32)
        found = ops_cuda.rasterize_polygons(
            *one_object(*outlines), torch.zeros(4).long(), torch.from_numpy(boxes), 28
        )
        for mask, box in zip(found.numpy(), boxes, strict=True):
            assert np.array_equal(mask, referee(outlines, box, 28)), record["id"]
            drawn += 1
    assert drawn > 3000


@pytest.mark.parametrize("side", [112, 300])
def test_large_masks_are_the_referees_too(side):
    vertices, polygon_offsets, object_offsets = random_outlines(6)
    bounds = polygon_offsets[object_offsets[5] : object_offsets[6] + 1].tolist()
    outlines = [vertices[a:b].numpy() for a, b in pairwise(bounds)]
    box = np.array([20, 15, 90, 80], np.float32)
    found = draw(ops_cuda, outlines, box.tolist(), side)
    assert np.array_equal(found.numpy(), referee(outlines, box, side))
    assert 0 < found.mean() < 1


def test_strides_and_types_of_the_input_do_not_matter():
    vertices, polygon_offsets, object_offsets = random_outlines(9)
    regions, wanted = random_boxes(20, largest=80.0), torch.arange(20) % 9
    expected = ops_cuda.rasterize_polygons(
        vertices, polygon_offsets, object_offsets, wanted, regions, 14
    )
    found = ops_cuda.rasterize_polygons(
        torch.cat([vertices, vertices], 1)[:, :2],
        polygon_offsets.repeat_interleave(2)[::2],
        object_offsets.repeat_interleave(2)[::2],
        wanted.repeat_interleave(3)[::3],
        regions.double(),
        14,
    )
    assert found.equal(expected)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = [vertices.to(dtype), regions.to(dtype)]
        found = ops_cuda.rasterize_polygons(
            rounded[0], polygon_offsets, object_offsets, wanted, rounded[1], 14
        )
        expected = ops_cuda.rasterize_polygons(
            rounded[0].float(), polygon_offsets, object_offsets, wanted, rounded[1].float(), 14
        )
        assert found.dtype == torch.float32 and found.equal(expected)


def test_threads_do_not_change_the_result(two_thread_counts):
    arguments = (*random_outlines(30), torch.arange(600) % 30, random_boxes(600, largest=80.0), 28)
    one, two = two_thread_counts(lambda: ops_cuda.rasterize_polygons(*arguments))
    assert one.equal(two)


@pytest.mark.parametrize(
    ("position", "value", "complaint"),
    [
        (1, torch.tensor([0, 9]), "polygon_offsets reaches 9 of only 4"),
        (1, torch.tensor([1, 4]), "polygon_offsets must start with 0"),
        (2, torch.tensor([0, 1, 0]), "object_offsets must ascend"),
        (2, torch.tensor([0, 3]), "object_offsets reaches 3 of only 1"),
        (3, torch.tensor([1]), r"objects\[0\] is 1 of only 1"),
        (3, torch.tensor([-1]), r"objects\[0\] is -1 of only 1"),
    ],
)
def test_indices_out_of_range_are_errors(position, value, complaint):
    arguments = [
        *one_object(square(0, 0, 9, 9)),
        torch.tensor([0]),
        torch.tensor([[0.0, 0, 9, 9]]),
        4,
    ]
    arguments[position] = value
    with pytest.raises(RuntimeError, match=complaint):
        ops_cuda.rasterize_polygons(*arguments)


@pytest.mark.parametrize(
    ("position", "value", "complaint"),
    [
        (0, torch.zeros(8), r"vertices must be \(N, 2\)"),
        (1, torch.tensor([0.0, 4.0]), "polygon_offsets must be"),
        (2, torch.empty(0).long(), "object_offsets must start with 0"),
        (3, torch.tensor([0, 0]), "lengths disagree"),
        (4, torch.zeros(4), r"boxes must be \(N, 4\)"),
        (5, 0, "side must be positive"),
    ],
)
def test_wrong_arguments_are_named(position, value, complaint):
    arguments = [
        *one_object(square(0, 0, 9, 9)),
        torch.tensor([0]),
        torch.tensor([[0.0, 0, 9, 9]]),
        4,
    ]
    arguments[position] = value
    with pytest.raises(ValueError, match=complaint):
        ops_cuda.rasterize_polygons(*arguments)
