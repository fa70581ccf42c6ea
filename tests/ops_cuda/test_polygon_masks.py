import json

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
    vertices = [torch.tensor(outline).view(-1, 2).float() for outline in outlines]
    offsets = torch.tensor([0, len(outlines)])
    return torch.cat([torch.empty(0, 2), *vertices]), lengths.cumsum(0), offsets


def square(x1, y1, x2, y2):
    return [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]


def draw(ops, outlines, box, side):
    return ops.rasterize_polygons(
        *one_object(*outlines), torch.tensor([0]), torch.tensor([box]).float(), side
    )[0]


@IMPLEMENTATIONS
def test_a_cell_is_set_where_its_centre_is_inside(ops):
    mask = draw(ops, [square(0, 0, 5, 10)], [0, 0, 10, 10], 4)
    assert mask.tolist() == [[1, 1, 0, 0]] * 4
    mask = draw(ops, [square(0, 0, 10, 3)], [0, 0, 10, 10], 5)
    assert mask.sum(1).tolist() == [5, 0, 0, 0, 0]  # centres at 1, 3, 5, 7, 9
    mask = draw(ops, [square(-100, -100, 100, 100)], [3, 4, 5, 9], 7)
    assert mask.eq(1).all()


@IMPLEMENTATIONS
def test_polygons_of_one_object_are_united(ops):
    overlapping = [square(0, 0, 6, 6), square(4, 4, 10, 10)]
    mask = draw(ops, overlapping, [0, 0, 10, 10], 10)
    assert mask.sum() == 36 + 36 - 4


@IMPLEMENTATIONS
def test_a_polygon_that_crosses_itself_follows_the_even_odd_rule(ops):
    twice_around = [*square(0, 0, 10, 10), (0, 0), *square(2, 2, 8, 8), (2, 2)]
    mask = draw(ops, [twice_around], [0, 0, 10, 10], 10)
    assert mask.sum() == 100 - 36


@IMPLEMENTATIONS
def test_what_is_no_area_gives_an_empty_mask(ops):
    box = [0, 0, 10, 10]
    assert draw(ops, [], box, 5).sum() == 0
    assert draw(ops, [[(1, 1)], [(1, 1), (8, 8)]], box, 5).sum() == 0
    nan = float("nan")
    assert draw(ops, [square(0, 0, 10, 10)], [nan, 0, 10, 10], 5).sum() == 0
    assert draw(ops, [square(0, 0, nan, 10)], box, 5).isfinite().all()


@IMPLEMENTATIONS
def test_a_box_without_extent_samples_one_place(ops):
    assert draw(ops, [square(0, 0, 10, 10)], [4, 4, 4, 4], 3).eq(1).all()
    assert draw(ops, [square(0, 0, 10, 10)], [14, 4, 14, 4], 3).eq(0).all()


@settings(deadline=None, max_examples=40)
@given(objects=st.integers(1, 12), boxes=st.integers(0, 30), seed=st.integers(0, 2**16))
def test_compiled_and_twin_agree_in_every_bit(objects, boxes, seed):
    outlines = random_outlines(objects, seed)
    regions = random_boxes(boxes, largest=80.0, seed=seed)
    wanted = torch.randint(0, objects, (boxes,), generator=torch.Generator().manual_seed(seed))
    arguments = (*outlines, wanted, regions, 14)
    found = ops_cuda.rasterize_polygons(*arguments)
    assert found.shape == (boxes, 14, 14)
    assert found.equal(reference.rasterize_polygons(*arguments))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), zoom=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_object_and_box_scaled_together_give_the_same_mask(seed, zoom):
    vertices, *offsets = random_outlines(3, seed)
    region, wanted = random_boxes(1, seed=seed), torch.tensor([2])
    mask = ops_cuda.rasterize_polygons(vertices, *offsets, wanted, region, 28)
    # powers of two: no rounding that could move a sample across an edge
    scaled = ops_cuda.rasterize_polygons(vertices * zoom, *offsets, wanted, region * zoom, 28)
    assert mask.equal(scaled)


def referee(outlines, box, side):
    """pycocotools' mask of the polygons moved and scaled into the box, as detectron2 draws it."""
    scale = side / (box[2:] - box[:2])
    moved = [((outline - box[:2]) * scale).reshape(-1).tolist() for outline in outlines]
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(moved, side, side)))


def iou(one, other):
    return (one & other).sum() / max((one | other).sum(), 1)


def test_masks_are_the_referees_but_for_its_rounding_of_outlines():
    vertices, polygon_offsets, object_offsets = random_outlines(150)
    overlaps = {28: [], 112: []}
    for item in range(150):
        first, last = object_offsets[item : item + 2].tolist()
        outlines = [
            vertices[polygon_offsets[p] : polygon_offsets[p + 1]] for p in range(first, last)
        ]
        if not outlines:
            continue
        points = torch.cat(outlines)
        box = torch.cat([points.min(0).values - 2, points.max(0).values + 3])
        for side, found in overlaps.items():
            mask = ops_cuda.rasterize_polygons(
                vertices, polygon_offsets, object_offsets, torch.tensor([item]), box[None], side
            )[0]
            expected = referee([o.double().numpy() for o in outlines], box.numpy(), side)
            found.append(iou(mask.numpy().astype(np.uint8), expected))
    # The referee rounds outlines to a fifth of a cell: its error shrinks with the cell.
    assert np.mean(overlaps[28]) >= 0.985
    assert np.mean(overlaps[112]) >= 0.995


def test_masks_of_real_objects_are_the_referees(coco_tiny):
    annotations = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    overlaps, areas = [], []
    for record in annotations["annotations"]:
        if record["iscrowd"] or min(record["bbox"][2:]) < 16:
            continue
        outlines = [np.array(polygon).reshape(-1, 2) for polygon in record["segmentation"]]
        x, y, width, height = record["bbox"]
        box = np.array([x, y, x + width, y + height])
        mask = draw(ops_cuda, [o.tolist() for o in outlines], box.tolist(), 28)
        expected = referee(outlines, box, 28)
        overlaps.append(iou(mask.numpy().astype(np.uint8), expected))
        areas.append(mask.sum().item() / expected.sum())
    assert len(overlaps) > 300
    assert np.mean(overlaps) >= 0.97  # thin objects are mostly outline
    assert abs(np.mean(areas) - 1) < 0.01  # neither grown nor shrunk


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


def test_threads_do_not_change_the_result(two_thread_counts):
    arguments = (*random_outlines(30), torch.arange(200) % 30, random_boxes(200, largest=80.0), 28)
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
