import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks
from torchvision.ops import roi_align

import ops_cuda
from ops_cuda.run_length_masks import rasterize_rle_reference
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import encode_runs, random_bitmaps, random_boxes, random_runs

IMPLEMENTATIONS = both_implementations(rasterize_rle_reference)

CORNER = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])


def resample(ops, bitmap, box, side):
    runs, boxes = encode_runs([bitmap]), torch.tensor([box])
    return ops.rasterize_rle(*runs, torch.tensor([0]), boxes, side)[0]


def iou(masks, others):
    return (masks * others).sum((1, 2)) / (masks + others).gt(0).sum((1, 2)).clamp(min=1)


@IMPLEMENTATIONS
def test_cells_of_one_pixel_equal_the_pixels(ops):
    assert resample(ops, CORNER, [0.0, 0, 4, 4], 4).equal(CORNER.float())
    assert resample(ops, CORNER, [1.0, 0, 3, 2], 2).tolist() == [[1, 0], [0, 0]]


@IMPLEMENTATIONS
def test_a_cell_is_set_where_half_of_it_is_mask(ops):
    # Four pixels per cell: three of them set in the first cell, one in the last.
    assert resample(ops, CORNER, [0.0, 0, 4, 4], 2).tolist() == [[1, 0], [0, 0]]
    half = torch.tensor([[1, 0], [0, 1]])
    assert resample(ops, half, [0.0, 0, 2, 2], 1).item() == 1
    assert resample(ops, half, [0.0, 0, 2.01, 2], 1).item() == 0


@IMPLEMENTATIONS
def test_cells_smaller_than_a_pixel_repeat_it(ops):
    expected = CORNER.repeat_interleave(3, 0).repeat_interleave(3, 1).float()
    assert resample(ops, CORNER, [0.0, 0, 4, 4], 12).equal(expected)
    # A quarter of a pixel to the right: of three cells per pixel, the third reads mostly the next.
    assert resample(ops, CORNER, [0.25, 0, 4.25, 4], 12)[0].tolist() == [1] * 5 + [0] * 7


@IMPLEMENTATIONS
def test_a_box_with_swapped_edges_flips_the_mask(ops):
    assert resample(ops, CORNER, [4.0, 0, 0, 4], 4).equal(CORNER.flip(1).float())
    assert resample(ops, CORNER, [0.0, 4, 4, 0], 4).equal(CORNER.flip(0).float())
    assert resample(ops, CORNER, [4.0, 4, 0, 0], 4).equal(CORNER.flip(0, 1).float())


@IMPLEMENTATIONS
def test_outside_its_canvas_an_object_has_no_mask(ops):
    full = torch.ones(3, 5)
    mask = resample(ops, full, [-2.0, -1, 8, 9], 10)
    assert mask.sum() == 15
    assert mask[1:4, 2:7].eq(1).all()
    for box in ([5.0, 0, 9, 3], [-9.0, 0, 0, 3], [0.0, 3, 5, 9], [0.0, -9, 5, 0]):
        assert resample(ops, full, box, 4).sum() == 0


@IMPLEMENTATIONS
def test_empty_full_and_missing_masks(ops):
    for bitmap, value in ((torch.zeros(4, 6), 0), (torch.ones(4, 6), 1)):
        assert resample(ops, bitmap, [0.0, 0, 6, 4], 3).eq(value).all()
    # an object without runs, and one whose first run of zeros is empty
    runs = torch.tensor([0, 12]), torch.tensor([0, 0, 2]), torch.tensor([3, 3])
    box = torch.tensor([[0.0, 0, 4, 3]]).repeat(2, 1)
    masks = ops.rasterize_rle(*runs, torch.tensor([0, 1]), box, 2)
    assert masks.mean((1, 2)).tolist() == [0, 1]
    nothing = torch.empty(0).long()
    assert ops.rasterize_rle(*runs, nothing, torch.empty(0, 4), 5).shape == (0, 5, 5)
    none = nothing, torch.zeros(1).long(), nothing
    assert ops.rasterize_rle(*none, nothing, torch.empty(0, 4), 5).shape == (0, 5, 5)


@IMPLEMENTATIONS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_boxes_with_nan_or_infinity_give_empty_masks(ops, value):
    for coordinate in range(4):
        box = [0.0, 0.0, 4.0, 4.0]
        box[coordinate] = value
        assert resample(ops, torch.ones(4, 4), box, 3).sum() == 0


@IMPLEMENTATIONS
def test_boxes_of_extreme_extent(ops):
    assert resample(ops, CORNER, [0.5, 0.5, 0.5, 0.5], 3).eq(1).all()
    assert resample(ops, CORNER, [2.5, 2.5, 2.5, 2.5], 3).eq(0).all()
    # in cells wider than any canvas, less than half is mask
    assert resample(ops, CORNER, [-3e38, -3e38, 3e38, 3e38], 3).sum() == 0
    # cells narrower than 1/4096 pixel have no area and are not set
    assert resample(ops, torch.ones(2, 2), [0.0, 0, 0, 2], 1000).mean() < 1


@settings(deadline=None, max_examples=40)
@given(
    objects=st.integers(1, 8),
    boxes=st.integers(0, 20),
    side=st.sampled_from([1, 7, 28, 70]),
    seed=st.integers(0, 2**16),
)
def test_the_reference_agrees_in_every_bit(objects, boxes, side, seed):
    generator = torch.Generator().manual_seed(seed)
    regions = torch.rand(boxes, 4, generator=generator) * 140 - 15
    regions[::2] = regions[::2].round()  # whole pixels: many areas are exactly half
    object_indices = torch.randint(0, objects, (boxes,), generator=generator)
    arguments = (*random_runs(objects, seed), object_indices, regions, side)
    actual = ops_cuda.rasterize_rle(*arguments)
    assert actual.shape == (boxes, side, side)
    assert actual.equal(rasterize_rle_reference(*arguments))
    swapped = (*arguments[:4], regions[:, [2, 1, 0, 3]], side)
    assert ops_cuda.rasterize_rle(*swapped).equal(actual.flip(2))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**16), zoom=st.integers(2, 5))
def test_a_canvas_scaled_with_its_box_gives_the_same_mask(seed, zoom):
    bitmaps = random_bitmaps(4, 40, 50, seed)
    larger = bitmaps.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    # halves: exact in 1/4096 pixel at any zoom
    boxes = (random_boxes(9, 40.0, 30.0, seed=seed) * 2).round() / 2 + torch.tensor([0, 0, 7, 7])
    object_indices = torch.arange(9) % 4
    mask = ops_cuda.rasterize_rle(*encode_runs(bitmaps), object_indices, boxes, 7)
    scaled = ops_cuda.rasterize_rle(*encode_runs(larger), object_indices, boxes * zoom, 7)
    # edges at sevenths of a pixel are rounded to 1/4096: only areas of exactly half may differ
    assert (mask != scaled).float().mean() < 0.01


def test_targets_of_real_objects_are_close_to_detectron2_and_to_polygons(coco_tiny):
    records = json.loads((coco_tiny / "annotations/instances_val2017.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in records["images"]}
    rng = np.random.default_rng(0)
    to_bitmap, to_polygons, bitmap_to_polygons = [], [], []
    for record in records["annotations"]:
        if record["iscrowd"] or min(record["bbox"][2:]) < 16:
            continue
        encoded = coco_masks.frPyObjects(record["segmentation"], *sizes[record["image_id"]])
        bitmap = torch.from_numpy(np.ascontiguousarray(coco_masks.decode(encoded).any(2)))
        x, y, width, height = record["bbox"]
        noise = 0.1 * rng.normal(size=(4, 4)) * [width, height, width, height]
        boxes = torch.from_numpy(noise + np.array([x, y, x + width, y + height])).float()
        object_indices = torch.zeros(4).long()
        actual = ops_cuda.rasterize_rle(*encode_runs([bitmap]), object_indices, boxes, 28)

        rois = torch.cat([torch.zeros(4, 1), boxes], 1)
        means = roi_align(bitmap[None, None].float(), rois, 28, sampling_ratio=0, aligned=True)
        detectron2_masks = (means[:, 0] >= 0.5).float()
        outlines = [torch.tensor(polygon).view(-1, 2) for polygon in record["segmentation"]]
        offsets = torch.tensor([0, *(len(outline) for outline in outlines)]).cumsum(0)
        polygon_masks = ops_cuda.rasterize_polygons(
            torch.cat(outlines),
            offsets,
            torch.tensor([0, len(outlines)]),
            object_indices,
            boxes,
            28,
        )
        to_bitmap.append(iou(actual, detectron2_masks))
        to_polygons.append(iou(actual, polygon_masks))
        bitmap_to_polygons.append(iou(detectron2_masks, polygon_masks))
    assert len(to_bitmap) > 300
    assert torch.cat(to_bitmap).mean() >= 0.995
    # A bitmap loses details smaller than a pixel: detectron2's own two methods differ as much.
    assert torch.cat(to_polygons).mean() >= 0.97
    difference = torch.cat(to_polygons).mean() - torch.cat(bitmap_to_polygons).mean()
    assert abs(difference) < 0.005


def test_input_strides_and_types_do_not_matter():
    run_ends, run_offsets, heights = random_runs(9)
    regions, object_indices = random_boxes(20, largest=80.0), torch.arange(20) % 9
    expected = ops_cuda.rasterize_rle(run_ends, run_offsets, heights, object_indices, regions, 14)
    actual = ops_cuda.rasterize_rle(
        run_ends.repeat_interleave(2)[::2],
        run_offsets.repeat_interleave(2)[::2],
        heights.repeat_interleave(2)[::2],
        object_indices.repeat_interleave(3)[::3],
        regions.double().T.contiguous().T,
        14,
    )
    assert actual.equal(expected)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = regions.to(dtype)
        arguments = (run_ends, run_offsets, heights, object_indices)
        actual = ops_cuda.rasterize_rle(*arguments, rounded, 14)
        assert actual.dtype == torch.float32
        assert actual.equal(ops_cuda.rasterize_rle(*arguments, rounded.float(), 14))


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    arguments = (*random_runs(30), torch.arange(600) % 30, random_boxes(600, largest=80.0), 28)
    one, two = two_thread_counts(lambda: ops_cuda.rasterize_rle(*arguments))
    assert one.equal(two)


def test_invalid_runs_do_not_crash():
    invalid = torch.tensor([9, 3, -(2**63), 2**63 - 1, 5])
    for runs in (invalid, invalid.flip(0), invalid.sort().values):
        offsets, heights = torch.tensor([0, 5]), torch.tensor([4])
        boxes = torch.tensor([[0.0, 0, 4, 4], [-1e5, 0, 1e5, 3]])
        masks = ops_cuda.rasterize_rle(runs, offsets, heights, torch.zeros(2).long(), boxes, 3)
        assert masks.shape == (2, 3, 3)


# Valid arguments of rasterize_rle: one object of 3 x 3 pixels.
SQUARE = (
    *encode_runs([torch.ones(3, 3)]),
    torch.tensor([0]),
    torch.tensor([[0.0, 0.0, 9.0, 9.0]]),
    4,
)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (1, torch.tensor([0, 9]), "run_offsets ends at 9, beyond the 2 entries"),
        (1, torch.tensor([1, 2]), "run_offsets must start with 0"),
        (2, torch.tensor([0]), r"heights\[0\] must be in \[1, 131072\]; got 0"),
        (2, torch.tensor([2**62]), r"heights\[0\] must be in \[1, 131072\]; got \d+"),
        (3, torch.tensor([1]), r"object_indices\[0\] is 1; there are 1 objects"),
        (3, torch.tensor([-1]), r"object_indices\[0\] is -1; there are 1 objects"),
    ],
)
def test_indices_out_of_range_raise(position, value, message):
    arguments = [*SQUARE]
    arguments[position] = value
    with pytest.raises(RuntimeError, match=message):
        ops_cuda.rasterize_rle(*arguments)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, torch.tensor([0.0, 9.0]), r"run_ends must be \(N,\) int64"),
        (1, torch.tensor([0]), "one entry more than heights; got 1 and 1"),
        (2, torch.tensor([3], dtype=torch.int32), r"heights must be \(N,\) int64"),
        (3, torch.tensor([0, 0]), "lengths disagree"),
        (4, torch.zeros(4), r"boxes must be \(N, 4\)"),
        (5, 0, "side must be positive"),
    ],
)
def test_invalid_arguments_are_named(position, value, message):
    arguments = [*SQUARE]
    arguments[position] = value
    with pytest.raises(ValueError, match=message):
        ops_cuda.rasterize_rle(*arguments)
