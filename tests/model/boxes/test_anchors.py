import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from model.boxes.anchors import AnchorGrid
from model.structures import ImageSize

SIZES, RATIOS, STRIDES = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64)


def cells_of(canvas):
    return [ImageSize(-(-canvas.height // s), -(-canvas.width // s)) for s in STRIDES]


@pytest.mark.parametrize("canvas", [ImageSize(256, 320), ImageSize(800, 1088)])
def test_torchvision_s_conventions_give_torchvision_s_anchors(canvas):
    grid = AnchorGrid(SIZES, RATIOS, STRIDES, rounded=True, stride_from_canvas=True)
    cells = cells_of(canvas)
    ours = torch.cat(grid(cells, canvas))
    theirs = AnchorGenerator(tuple((s,) for s in SIZES), (RATIOS,) * 5)(
        ImageList(torch.zeros(1, 3, *canvas), [tuple(canvas)]),
        [torch.zeros(1, 1, *size) for size in cells],
    )
    assert torch.equal(ours, theirs[0])


def test_several_sizes_stand_in_torchvision_s_order():
    sizes = [[size, size * 1.25, size * 1.6] for size in SIZES]
    grid = AnchorGrid(sizes, RATIOS, STRIDES, rounded=True, stride_from_canvas=True)
    canvas = ImageSize(256, 320)
    theirs = AnchorGenerator(tuple(map(tuple, sizes)), (RATIOS,) * 5)(
        ImageList(torch.zeros(1, 3, *canvas), [tuple(canvas)]),
        [torch.zeros(1, 1, *size) for size in cells_of(canvas)],
    )
    assert grid.per_cell == 9
    assert torch.equal(torch.cat(grid(cells_of(canvas), canvas)), theirs[0])


def test_one_level_can_have_all_sizes():
    grid = AnchorGrid([SIZES], RATIOS, [16])
    (anchors,) = grid([ImageSize(2, 3)], ImageSize(32, 48))
    sides = (anchors[:, 2:] - anchors[:, :2]).view(6, 3, 5, 2)  # cell, ratio, size
    torch.testing.assert_close(
        sides.prod(-1).sqrt(), torch.tensor(SIZES, dtype=torch.float32).expand(6, 3, 5)
    )
    torch.testing.assert_close(
        sides[..., 1] / sides[..., 0], torch.tensor(RATIOS)[:, None].expand(6, 3, 5)
    )


def test_anchors_keep_their_area_and_ratio_and_lie_a_stride_apart():
    grid = AnchorGrid(SIZES, RATIOS, STRIDES)
    for level, anchors in enumerate(grid(cells_of(ImageSize(128, 192)), ImageSize(128, 192))):
        sides = anchors[:, 2:] - anchors[:, :2]
        torch.testing.assert_close(sides.prod(1).sqrt(), torch.full_like(sides[:, 0], SIZES[level]))
        torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:3], torch.tensor(RATIOS))
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        torch.testing.assert_close(centres[0], torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            centres[3] - centres[0], torch.tensor([STRIDES[level], 0.0]), atol=1e-4, rtol=0
        )


def test_the_order_of_anchors_is_that_of_the_heads_outputs():
    grid = AnchorGrid((8,), (1.0, 2.0), (4,))
    (anchors,) = grid([ImageSize(2, 3)], ImageSize(8, 12))
    by_place = anchors.view(2, 3, 2, 4)  # row, column, ratio
    centres = (by_place[..., :2] + by_place[..., 2:]) / 2
    assert centres[1, 2, 0].tolist() == [8, 4]
    assert centres[1, 2, 1].tolist() == [8, 4]
