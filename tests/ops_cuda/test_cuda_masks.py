"""Masks and images on a GPU against the same on the CPU."""

import pytest
import torch

import ops_cuda
from tests.ops_cuda.gpu import on_gpu
from tests.ops_cuda.scenes import random_boxes, random_images, random_outlines, random_runs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_polygon_masks_agree_in_every_bit():
    boxes = random_boxes(300, largest=80.0)
    boxes[3] = float("nan")
    arguments = (*random_outlines(30), torch.arange(300) % 30, boxes, 28)
    expected = ops_cuda.rasterize_polygons(*arguments)
    assert ops_cuda.rasterize_polygons(*on_gpu(arguments)).cpu().equal(expected)


def test_polygon_indices_out_of_range_give_empty_masks_and_no_invalid_access():
    vertices, polygons, objects = (each.cuda() for each in random_outlines(5))
    box = random_boxes(1).cuda()
    for value in (-1, 5, 2**60):
        index = torch.tensor([value]).cuda()
        assert ops_cuda.rasterize_polygons(vertices, polygons, objects, index, box, 9).sum() == 0
    torch.cuda.synchronize()


@pytest.mark.parametrize("side", [28, 112, 300])
def test_mask_targets_of_any_size_agree_in_every_bit(side):
    boxes = random_boxes(40, largest=80.0).round()
    boxes[3], boxes[4] = float("nan"), boxes[4, [2, 1, 0, 3]]
    object_indices = torch.arange(40) % 9
    for operator, masks in (
        (ops_cuda.rasterize_polygons, random_outlines(9)),
        (ops_cuda.rasterize_rle, random_runs(9)),
    ):
        arguments = (*masks, object_indices, boxes, side)
        assert operator(*on_gpu(arguments)).cpu().equal(operator(*arguments))


def test_run_indices_out_of_range_give_empty_masks_and_no_invalid_access():
    runs, box = on_gpu(random_runs(5)), random_boxes(1).cuda()
    for value in (-1, 5, 2**60):
        masks = ops_cuda.rasterize_rle(*runs, torch.tensor([value]).cuda(), box, 9)
        assert masks.sum() == 0
    torch.cuda.synchronize()


def test_pasted_masks_agree_in_every_bit():
    masks = torch.rand(80, 28, 28, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(80, extent=140.0, largest=120.0) - 20
    boxes[3], boxes[4, 2], boxes[5] = float("nan"), float("inf"), boxes[5, [2, 3, 0, 1]]
    for threshold, grid in ((0.0, False), (0.5, False), (0.0, True), (0.5, True)):
        expected = ops_cuda.paste_masks(masks, boxes, 120, 150, threshold, grid)
        actual = ops_cuda.paste_masks(masks.cuda(), boxes.cuda(), 120, 150, threshold, grid)
        assert actual.cpu().equal(expected)


@pytest.mark.parametrize("grid", [False, True], ids=["whole_pixels", "grid"])
def test_encoded_runs_agree(grid):
    masks = torch.rand(80, 28, 28, generator=torch.Generator().manual_seed(0))
    boxes = random_boxes(80, extent=140.0, largest=120.0) - 20
    boxes[3], boxes[4, 2], boxes[5] = float("nan"), float("inf"), boxes[5, [2, 3, 0, 1]]
    boxes[6:8], masks[7] = torch.tensor([-50.0, -50, 250, 250]), 1
    for count in (80, 0):
        arguments = (masks[:count], boxes[:count], 120, 150, 0.5, grid)
        expected = ops_cuda.encode_roi_masks_rle(*arguments)
        actual = ops_cuda.encode_roi_masks_rle(*on_gpu(arguments))
        assert all(one.is_cuda for one in actual)
        assert all(one.cpu().equal(other) for one, other in zip(actual, expected, strict=True))
        texts = ops_cuda.compress_rle(*actual), ops_cuda.compress_rle(*expected)
        assert all(map(torch.equal, *texts))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("reverse", [False, True], ids=["rgb", "bgr"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_preprocessed_batches_agree_in_every_bit(reverse, dtype, antialias):
    sizes = [(40, 30), (20, 64), (9, 9)] * 13
    options = ((48, 64), (120.0, 110.0, 100.0), (50.0, 60.0, 57.0), reverse, dtype, antialias)
    expected = ops_cuda.preprocess(random_images() * 13, sizes, *options)
    actual = ops_cuda.preprocess(on_gpu(random_images() * 13), sizes, *options)
    assert actual.stride() == expected.stride()
    assert actual.cpu().equal(expected)


@pytest.mark.parametrize("size", [(70, 95), (11, 7), (1, 300), (50, 80), (1, 1)])
def test_resized_images_agree_in_every_bit(size):
    for image in random_images():
        expected = ops_cuda.resize_image(image, *size)
        assert ops_cuda.resize_image(on_gpu(image), *size).cpu().equal(expected)
