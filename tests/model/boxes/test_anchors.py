import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from model.boxes.anchors import MAX_CACHED_GRIDS, AnchorGrid, detectron_anchors
from model.structures import ImageSize

SIZES, RATIOS, STRIDES = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64)
ONE_PER_LEVEL = [(size,) for size in SIZES]
# Added to a box of Detectron, which ends on its last pixel, to store it.
TO_STORED = torch.tensor([0.0, 0, 1, 1])


def maps(*cells):
    """Return a feature map for each (height, width)."""
    return [torch.zeros(1, 1, *size) for size in cells]


def pyramid(canvas):
    return maps(*((-(-canvas.height // s), -(-canvas.width // s)) for s in STRIDES))


def torchvision_anchors(sizes, canvas):
    generator = AnchorGenerator(tuple(map(tuple, sizes)), (RATIOS,) * len(sizes))
    images = ImageList(torch.zeros(1, 3, *canvas), [tuple(canvas)])
    return generator(images, pyramid(canvas))[0]


@pytest.mark.parametrize("canvas", [ImageSize(256, 320), ImageSize(800, 1088)])
def test_anchors_match_torchvision_under_its_conventions(canvas):
    grid = AnchorGrid(ONE_PER_LEVEL, RATIOS, STRIDES, rounded=True, stride_from_canvas=True)
    expected = torchvision_anchors(ONE_PER_LEVEL, canvas)
    assert torch.equal(torch.cat(grid(pyramid(canvas), canvas)), expected)


def test_several_sizes_per_level_are_in_the_order_of_torchvision():
    sizes = [[size, size * 1.25, size * 1.6] for size in SIZES]
    grid = AnchorGrid(sizes, RATIOS, STRIDES, rounded=True, stride_from_canvas=True)
    canvas = ImageSize(256, 320)
    assert grid.per_cell == 9
    expected = torchvision_anchors(sizes, canvas)
    assert torch.equal(torch.cat(grid(pyramid(canvas), canvas)), expected)


def test_a_single_level_can_have_all_sizes():
    grid = AnchorGrid([SIZES], RATIOS, [16])
    (anchors,) = grid(maps((2, 3)), ImageSize(32, 48))
    sides = (anchors[:, 2:] - anchors[:, :2]).view(6, 3, 5, 2)  # cell, ratio, size
    torch.testing.assert_close(
        sides.prod(-1).sqrt(), torch.tensor(SIZES, dtype=torch.float32).expand(6, 3, 5)
    )
    torch.testing.assert_close(
        sides[..., 1] / sides[..., 0], torch.tensor(RATIOS)[:, None].expand(6, 3, 5)
    )


def test_anchors_have_their_area_and_ratio_and_are_a_stride_apart():
    canvas = ImageSize(128, 192)
    grid = AnchorGrid(ONE_PER_LEVEL, RATIOS, STRIDES)
    for level, anchors in enumerate(grid(pyramid(canvas), canvas)):
        sides = anchors[:, 2:] - anchors[:, :2]
        torch.testing.assert_close(sides.prod(1).sqrt(), torch.full_like(sides[:, 0], SIZES[level]))
        torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:3], torch.tensor(RATIOS))
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        torch.testing.assert_close(centers[0], torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            centers[3] - centers[0], torch.tensor([STRIDES[level], 0.0]), atol=1e-4, rtol=0
        )


def test_anchors_are_ordered_by_row_column_and_ratio_like_the_outputs_of_the_heads():
    grid = AnchorGrid([(8,)], (1.0, 2.0), (4,))
    (anchors,) = grid(maps((2, 3)), ImageSize(8, 12))
    by_cell = anchors.view(2, 3, 2, 4)  # row, column, ratio
    centers = (by_cell[..., :2] + by_cell[..., 2:]) / 2
    assert centers[1, 2, 0].tolist() == [8, 4]
    assert centers[1, 2, 1].tolist() == [8, 4]


def test_detectron_anchors_are_those_of_the_first_faster_r_cnn():
    # Widths for 16 x 16: sqrt(512) = 22.6 is 23, 16, sqrt(128) = 11.3 is 11; heights 11.5, even 12,
    # 16 and 22. Scaled by 8 around (7.5, 7.5), they reach from -84 to 99.
    anchors = detectron_anchors([128.0, 256.0], (0.5, 1.0, 2.0), 16) - TO_STORED
    assert anchors.tolist() == [
        [-84, -40, 99, 55],
        [-176, -88, 191, 103],
        [-56, -56, 71, 71],
        [-120, -120, 135, 135],
        [-36, -80, 51, 95],
        [-80, -168, 95, 183],
    ]


def test_detectron_anchors_start_at_half_a_stride_and_are_a_stride_apart():
    grid = AnchorGrid([(32.0,), (64.0,)], (1.0,), (4, 8), detectron=True)
    fine, coarse = grid(maps((2, 3), (1, 2)), ImageSize(8, 12))
    assert (fine[0] - TO_STORED).tolist() == [-14, -14, 17, 17]  # around 1.5
    assert (fine[5] - fine[0]).tolist() == [8, 4, 8, 4]
    assert (coarse[1] - TO_STORED).tolist() == [-20, -28, 43, 35]  # around 11.5, 3.5


def test_anchors_are_computed_once_per_shape_and_the_cache_is_bounded():
    grid = AnchorGrid([(8,)], (1.0,), (4,))
    with torch.inference_mode():
        first = grid(maps((2, 3)), ImageSize(8, 12))
    assert not first[0].is_inference()  # a training step may hit the cache
    assert grid(maps((2, 3)), ImageSize(8, 12)) is first
    for side in range(1, MAX_CACHED_GRIDS + 1):
        grid(maps((side, side)), ImageSize(4 * side, 4 * side))
    again = grid(maps((2, 3)), ImageSize(8, 12))
    assert again is not first
    assert again[0].equal(first[0])
    assert len(grid._cache) == MAX_CACHED_GRIDS


def test_anchors_of_a_moved_grid_are_on_its_device():
    grid = AnchorGrid([(8,)], (1.0,), (4,))
    grid(maps((2, 3)), ImageSize(8, 12))
    assert grid.to("meta")(maps((2, 3)), ImageSize(8, 12))[0].is_meta
