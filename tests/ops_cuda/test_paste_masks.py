import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

import ops_cuda
from ops_cuda.paste_masks import paste_masks_reference
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import random_boxes

IMPLEMENTATIONS = both_implementations(paste_masks_reference)
HEIGHT, WIDTH = 120, 150


def random_masks(count, side=28, seed=6):
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed))


def boxes_on_image(count, seed=0, largest=90.0):
    boxes = random_boxes(count, extent=140.0, largest=largest, seed=seed)
    return boxes.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]).float())


def assert_equal_to_torchvision(bitmaps, masks, boxes, threshold):
    """Assert equality except where the probability is within rounding of the threshold."""
    expected = paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH))[:, 0]
    differs = bitmaps.bool() != (expected > threshold)
    # torch rounds differently for small and large boxes, and with and without FMA
    assert ((expected[differs] - threshold).abs() < 2e-6).all()


@IMPLEMENTATIONS
def test_a_full_mask_fills_its_box_and_nothing_else(ops):
    box = torch.tensor([[20.0, 30.0, 60.0, 90.0]])
    bitmap = ops.paste_masks(torch.ones(1, 28, 28), box, HEIGHT, WIDTH, 0.5)[0]
    assert bitmap.dtype == torch.uint8
    assert bitmap[31:89, 21:59].eq(1).all()
    bitmap[29:92, 19:62] = 0
    assert bitmap.sum() == 0


@IMPLEMENTATIONS
@pytest.mark.parametrize("side", [1, 2, 14, 28])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_bitmaps_match_torchvision(ops, side, threshold):
    masks, boxes = random_masks(60, side), boxes_on_image(60)
    bitmaps = ops.paste_masks(masks, boxes, HEIGHT, WIDTH, threshold)
    assert_equal_to_torchvision(bitmaps, masks, boxes, threshold)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    side=st.integers(1, 30),
    largest=st.sampled_from([0.5, 3.0, 30.0, 150.0]),
)
def test_bitmaps_match_torchvision_for_any_box_on_the_image(seed, side, largest):
    # Coarse values give many pixels exactly at the threshold.
    masks = (random_masks(5, side, seed) * 4).round() / 4
    boxes = boxes_on_image(5, seed, largest)
    bitmaps = ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5)
    assert_equal_to_torchvision(bitmaps, masks, boxes, 0.5)


@IMPLEMENTATIONS
def test_a_grid_samples_the_mask_at_pixel_centers(ops):
    # Cells are two pixels wide, and the first is centered on (1.5, 1.5), the center of pixel 1.
    # Pixels 0 and 2 are half a cell away on each axis.
    mask, box = torch.tensor([[[1.0, 0], [0, 0]]]), torch.tensor([[0.5, 0.5, 4.5, 4.5]])
    bitmap = ops.paste_masks(mask, box, 5, 6, 0.4, grid=True)[0]
    assert bitmap[:3, :3].tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert bitmap.sum() == 5
    assert ops.paste_masks(mask, box, 5, 6, 0.6, grid=True).nonzero().tolist() == [[0, 1, 1]]


@IMPLEMENTATIONS
@pytest.mark.parametrize("side", [1, 2, 14, 28])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_bitmaps_on_a_grid_equal_grid_samples(ops, side, threshold):
    masks, boxes = random_masks(60, side), random_boxes(60, extent=150, largest=120) - 25
    x, y = (torch.arange(length) + 0.5 for length in (WIDTH, HEIGHT))
    corner, extent = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[..., None]
    x, y = ((x - corner[:, 0]) / extent[:, 0], (y - corner[:, 1]) / extent[:, 1])
    shape = (60, HEIGHT, WIDTH)
    grid = torch.stack((x[:, None].expand(shape), y[..., None].expand(shape)), dim=-1) * 2 - 1
    expected = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    differs = ops.paste_masks(masks, boxes, HEIGHT, WIDTH, threshold, grid=True).bool() != (
        expected > threshold
    )
    # grid_sample's coordinates are rounded once more on their way to [-1, 1] and back
    assert ((expected[differs] - threshold).abs() < 1e-5 * side).all()
    assert expected.gt(threshold).sum() > 1000


@IMPLEMENTATIONS
@pytest.mark.parametrize("grid", [False, True], ids=["whole_pixels", "grid"])
def test_parts_outside_the_image_are_cut_off(ops, grid):
    boxes = torch.tensor([[-50.0, -20, 40, 60], [100, 80, 400, 300], [-900, -900, 900, 900]])
    masks = random_masks(3)
    actual = ops.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5, grid)
    margin = 1000
    whole = (HEIGHT + 2 * margin, WIDTH + 2 * margin)
    wide = ops.paste_masks(masks, boxes + margin, *whole, 0.5, grid)[
        :, margin : margin + HEIGHT, margin : margin + WIDTH
    ]
    # Shifting a box by whole pixels changes the rounding of its corners in the last digits only.
    assert (actual != wide).float().mean() < 0.01
    assert actual.sum() > 1000


@IMPLEMENTATIONS
@pytest.mark.parametrize("grid", [False, True], ids=["whole_pixels", "grid"])
def test_boxes_outside_the_image_and_invalid_boxes_give_empty_bitmaps(ops, grid):
    infinity, nan = float("inf"), float("nan")
    boxes = torch.tensor(
        [
            [200.0, 10, 240, 40],
            [10, 500, 40, 540],
            [-90, -90, -10, -10],
            [nan, 10, 40, 40],
            [10, 10, infinity, 40],
            [-infinity, -infinity, infinity, infinity],
            [60, 60, 20, 20],
        ]
    )
    assert ops.paste_masks(torch.ones(7, 28, 28), boxes, HEIGHT, WIDTH, 0.5, grid).sum() == 0


@pytest.mark.parametrize("grid", [False, True], ids=["whole_pixels", "grid"])
def test_a_huge_box_costs_only_the_image(grid):
    boxes = torch.tensor([[-1e9, -1e9, 1e9, 1e9], [-3e38, -3e38, 3e38, 3e38]])
    actual = ops_cuda.paste_masks(torch.ones(2, 28, 28), boxes, HEIGHT, WIDTH, 0.5, grid)
    assert actual[0].eq(1).all()
    assert actual[1].sum() == 0  # beyond what a float can resolve in pixels


def test_no_masks_give_no_bitmaps():
    empty = ops_cuda.paste_masks(torch.empty(0, 28, 28), torch.empty(0, 4), 10, 20, 0.5)
    assert empty.shape == (0, 10, 20)
    assert empty.dtype == torch.uint8


def test_input_strides_and_types_do_not_matter():
    masks, boxes = random_masks(10).half(), boxes_on_image(10).half()
    expected = ops_cuda.paste_masks(masks.float(), boxes.float(), HEIGHT, WIDTH, 0.5)
    actual = ops_cuda.paste_masks(
        masks.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat([boxes, boxes], 1)[:, :4],
        HEIGHT,
        WIDTH,
        0.5,
    )
    assert actual.equal(expected)


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    masks, boxes = random_masks(50), boxes_on_image(50)
    one, two = two_thread_counts(lambda: ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5))
    assert one.equal(two)


@pytest.mark.parametrize(
    ("masks", "boxes", "height", "message"),
    [
        (torch.zeros(2, 1, 28, 28), torch.zeros(2, 4), 10, r"masks must be \(R, M, M\)"),
        (torch.zeros(2, 28, 27), torch.zeros(2, 4), 10, r"masks must be \(R, M, M\)"),
        (torch.zeros(2, 28, 28).byte(), torch.zeros(2, 4), 10, "masks must be floating point"),
        (torch.zeros(2, 28, 28), torch.zeros(3, 4), 10, "lengths disagree"),
        (torch.zeros(2, 28, 28), torch.zeros(2, 4), 0, "height must be positive"),
    ],
)
def test_invalid_arguments_are_named(masks, boxes, height, message):
    with pytest.raises(ValueError, match=message):
        ops_cuda.paste_masks(masks, boxes, height, 20, 0.5)
