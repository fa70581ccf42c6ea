"""The logic of the CUDA kernels without a GPU: compiled for the host, against the CPU kernels."""

import pytest
import torch

from tests.ops_cuda.examples import examples, run_example, selected_anchors
from tests.ops_cuda.scenes import (
    match_scene,
    random_boxes,
    random_images,
    random_labels,
    random_outlines,
    random_runs,
    tied_scores,
)

CPU = torch.ops.ops_cuda


@pytest.mark.parametrize("name", sorted(examples()))
def test_every_emulated_kernel_agrees_with_the_cpu_on_its_example(gpu, name):
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"ops_emulated::{name}", "CPU"):
        pytest.skip("no CUDA kernel")
    arguments = examples()[name]
    with torch.no_grad():
        expected = run_example(getattr(CPU, name), arguments)
        actual = run_example(getattr(gpu, name), arguments)
    # sums in another order, and another exponential function; integers are compared exactly
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_keeps_the_same_indices(gpu, count, dtype):
    boxes, scores = random_boxes(count).to(dtype), tied_scores(count).to(dtype)
    classes = random_labels(count)
    if count > 60:
        boxes[5], boxes[6, 2], boxes[7, 2:] = float("nan"), float("inf"), boxes[7, :2]
        scores[8] = float("nan")
    for options in ((0.0, -1), (0.5, -1), (0.7, 0), (0.7, 9), (1.0, -1)):
        expected = CPU.nms(boxes, scores, *options)
        assert gpu.nms(boxes, scores, *options).tolist() == expected.tolist()
        expected = CPU.batched_nms(boxes, scores, classes, *options)
        assert gpu.batched_nms(boxes, scores, classes, *options).tolist() == expected.tolist()


def test_classes_of_one_box_and_of_all_boxes_are_suppressed_as_on_the_cpu(gpu):
    boxes, scores = random_boxes(300), tied_scores(300)
    labels = torch.arange(300)
    for classes in (labels, labels * 0, labels // 150 - 2**60):
        expected = CPU.batched_nms_mask(boxes, scores, classes, 0.4)
        assert gpu.batched_nms_mask(boxes, scores, classes, 0.4).equal(expected)
        kept = gpu.batched_nms(boxes, scores, classes, 0.4, 7)
        assert kept.equal(CPU.batched_nms(boxes, scores, classes, 0.4, 7))


@pytest.mark.parametrize("size", [0, 1, 64, 150])
@pytest.mark.parametrize("presorted", [True, False], ids=["presorted", "unsorted"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_grouped_nms_keeps_the_same_indices(gpu, size, presorted, dtype):
    boxes = random_boxes(3 * size).to(dtype).view(3, size, 4)
    scores = tied_scores(3 * size).to(dtype).view(3, size)
    if presorted:
        scores = scores.sort(dim=1, descending=True, stable=True).values
    if size > 60:
        boxes[0, 5], scores[0, 7::9], scores[1] = float("nan"), -torch.inf, -torch.inf
        if not presorted:
            scores[2, 8] = float("nan")
    for options in ((0.5, size), (0.7, 9), (0.7, 0)):
        expected = CPU.grouped_nms(boxes, scores, *options, presorted)
        actual = gpu.grouped_nms(boxes, scores, *options, presorted)
        assert all(one.equal(other) for one, other in zip(actual, expected, strict=True))


def test_proposals_are_decoded_as_on_the_cpu_and_invalid_indices_dropped(gpu):
    scores, indices, deltas, anchors, limits = selected_anchors()
    deltas[0][0, indices[0][0, 1]] = float("nan")
    scores[1][1, 2] = float("nan")
    for min_clipped_side in (1.0, 0.0):
        arguments = (deltas, anchors, limits, 2.0, 4.0, min_clipped_side)
        expected = CPU.decode_proposals(scores, indices, *arguments)
        torch.testing.assert_close(gpu.decode_proposals(scores, indices, *arguments), expected)
    indices[0][0, 0], indices[1][0, 0] = 2**60, -1
    boxes, decoded_scores = gpu.decode_proposals(scores, indices, *arguments)
    assert (decoded_scores[0, :, 0] == -torch.inf).all() and (boxes[0, :, 0] == 0).all()


def test_polygon_masks_agree_in_every_bit(gpu):
    boxes = random_boxes(60, largest=80.0)
    boxes[3], boxes[4] = float("nan"), boxes[4, [2, 3, 0, 1]]
    outlines = random_outlines(30)
    outlines[0][50], outlines[0][99] = float("nan"), 1e20
    arguments = (*outlines, torch.arange(60) % 30, boxes, 14)
    assert gpu.rasterize_polygons(*arguments).equal(CPU.rasterize_polygons(*arguments))


@pytest.mark.parametrize("side", [1, 33, 130, 300])
def test_polygon_masks_of_any_size_agree_in_every_bit(gpu, side):
    arguments = (*random_outlines(3), torch.arange(3), random_boxes(3, largest=80.0), side)
    assert gpu.rasterize_polygons(*arguments).equal(CPU.rasterize_polygons(*arguments))


@pytest.mark.parametrize("side", [1, 28, 131])
def test_run_length_masks_agree_in_every_bit(gpu, side):
    boxes = random_boxes(80, largest=80.0).round()
    boxes[3], boxes[4], boxes[5, 2] = float("nan"), boxes[4, [2, 3, 0, 1]], 3e38
    boxes[6], boxes[7, 2:] = boxes[6, [2, 1, 0, 3]], boxes[7, :2]
    arguments = (*random_runs(9), torch.arange(80) % 9, boxes, side)
    assert gpu.rasterize_rle(*arguments).equal(CPU.rasterize_rle(*arguments))


def test_run_indices_out_of_range_give_empty_masks_and_no_invalid_access(gpu):
    ends, offsets, heights = random_runs(5)
    box = random_boxes(1)
    for index in (-1, 5, 2**60):
        masks = gpu.rasterize_rle(ends, offsets, heights, torch.tensor([index]), box, 9)
        assert masks.eq(0).all()
    invalid = torch.tensor([-(2**60), 2**60, 0, 2**60, 3, 1])
    boxes = box.expand(5, 4)
    for odd_heights in (heights, heights * 2**60, -heights):
        masks = gpu.rasterize_rle(ends, invalid, odd_heights, torch.arange(5), boxes, 9)
        assert masks.shape == (5, 9, 9)
    reversed_ends = ends.flip(0) * 2**40
    assert gpu.rasterize_rle(reversed_ends, offsets, heights, torch.arange(5), boxes, 9).numel()


def test_polygon_indices_out_of_range_give_empty_masks_and_no_invalid_access(gpu):
    vertices, polygons, objects = random_outlines(5)
    box = random_boxes(1)
    for index in (-1, 5, 2**60):
        masks = gpu.rasterize_polygons(vertices, polygons, objects, torch.tensor([index]), box, 9)
        assert masks.eq(0).all()
    invalid = torch.tensor([-(2**60), 2**60, 0, 2**60, 3, 1])
    assert gpu.rasterize_polygons(
        vertices, invalid, invalid, torch.arange(5), box.expand(5, 4), 9
    ).numel()


def test_pasted_masks_agree_in_every_bit(gpu):
    masks = torch.rand(30, 14, 14, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(30, extent=140.0, largest=120.0) - 20
    boxes[3], boxes[4, 2], boxes[5] = float("nan"), float("inf"), boxes[5, [2, 3, 0, 1]]
    for threshold, grid in ((0.0, False), (0.5, False), (0.0, True), (0.5, True)):
        arguments = (masks, boxes, 60, 75, threshold, grid)
        assert gpu.paste_masks(*arguments).equal(CPU.paste_masks(*arguments))


@pytest.mark.parametrize("grid", [False, True], ids=["whole_pixels", "grid"])
def test_encoded_runs_agree(gpu, grid):
    masks = torch.rand(30, 14, 14, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(30, extent=140.0, largest=120.0) - 20
    boxes[3], boxes[4, 2], boxes[5] = float("nan"), float("inf"), boxes[5, [2, 3, 0, 1]]
    whole = torch.tensor([-50.0, -50, 150, 150])
    boxes[6:9], masks[6], masks[7] = whole, 1, 0
    boxes[9], boxes[10] = whole * torch.tensor([1, 1, 0.2, 1]), whole * torch.tensor([1, 1, 1, 0.2])
    for height, width in ((60, 75), (1, 1), (200, 3)):
        arguments = (masks, boxes, height, width, 0.5, grid)
        actual = gpu.encode_roi_masks_rle(*arguments)
        assert all(map(torch.equal, actual, CPU.encode_roi_masks_rle(*arguments)))
    empty = gpu.encode_roi_masks_rle(masks[:0], boxes[:0], 60, 75, 0.5, grid)
    assert [each.tolist() for each in empty] == [[], [0]]


@pytest.mark.parametrize("allow_low_quality", [True, False])
@pytest.mark.parametrize("count", [0, 1, 127, 129, 7000])
@pytest.mark.parametrize("shared", [True, False], ids=["anchors", "proposals"])
def test_matches_agree_in_every_bit(gpu, count, shared, allow_low_quality):
    arguments = match_scene(count, shared)
    actual = gpu.match_boxes(*arguments, 0.5, 0.3, allow_low_quality)
    for one, other in zip(
        actual, CPU.match_boxes(*arguments, 0.5, 0.3, allow_low_quality), strict=True
    ):
        assert one.equal(other)


def test_gt_offsets_out_of_range_are_clamped(gpu):
    invalid = torch.tensor([-(2**60), 2**60, 0, 2**60, 3, 1])
    matched_gt, _ = gpu.match_boxes(
        random_boxes(40)[None], random_boxes(5), invalid, 0.5, 0.3, True
    )
    assert matched_gt.min() >= 0
    assert matched_gt.max() < 5


IMAGE_SIZES = ([40, 20, 9], [30, 64, 9], 48, 64)
NORMALIZATION = ([120.0, 110.0, 100.0], [50.0, 60.0, 57.0])


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("reverse", [False, True], ids=["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_preprocessed_batches_agree_in_every_bit(gpu, reverse, dtype, antialias):
    arguments = (random_images(), *IMAGE_SIZES, *NORMALIZATION, reverse, dtype, antialias)
    actual, expected = gpu.preprocess(*arguments), CPU.preprocess(*arguments)
    assert actual.stride() == expected.stride()
    assert actual.equal(expected)


def test_more_images_than_one_launch_takes(gpu):
    heights, widths, *canvas = IMAGE_SIZES
    images, options = random_images() * 13, (*NORMALIZATION, False, torch.float32, False)
    arguments = (images, heights * 13, widths * 13, *canvas, *options)
    assert gpu.preprocess(*arguments).equal(CPU.preprocess(*arguments))


@pytest.mark.parametrize("size", [(70, 95), (11, 7), (1, 300), (50, 80), (1, 1)])
def test_resized_images_agree_in_every_bit(gpu, size):
    for image in random_images():
        assert gpu.resize_image(image, *size).equal(CPU.resize_image(image, *size))
