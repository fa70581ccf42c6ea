import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

import ops_cuda
from ops_cuda import reference
from tests.ops_cuda.scenes import random_boxes

IMPLEMENTATIONS = pytest.mark.parametrize("ops", [ops_cuda, reference], ids=["public", "twin"])
HEIGHT, WIDTH = 120, 150


def random_masks(count, side=28, seed=6):
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed))


def boxes_on_canvas(count, seed=0, largest=90.0):
    boxes = random_boxes(count, extent=140.0, largest=largest, seed=seed)
    return boxes.minimum(torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT]).float())


def assert_torchvisions_bits(bitmaps, masks, boxes, threshold):
    """Equal bits, but where torchvision's probability is within rounding of the threshold."""
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
def test_the_bits_are_torchvisions(ops, side, threshold):
    masks, boxes = random_masks(60, side), boxes_on_canvas(60)
    bitmaps = ops.paste_masks(masks, boxes, HEIGHT, WIDTH, threshold)
    assert_torchvisions_bits(bitmaps, masks, boxes, threshold)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**16),
    side=st.integers(1, 30),
    largest=st.sampled_from([0.5, 3.0, 30.0, 150.0]),
)
def test_the_bits_are_torchvisions_for_any_box_on_the_image(seed, side, largest):
    # Coarse values give many pixels exactly at the threshold.
    masks = (random_masks(5, side, seed) * 4).round() / 4
    boxes = boxes_on_canvas(5, seed, largest)
    bitmaps = ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5)
    assert_torchvisions_bits(bitmaps, masks, boxes, 0.5)


@IMPLEMENTATIONS
def test_a_grid_reads_the_mask_where_pixels_have_their_centres(ops):
    # Cells two pixels wide, of which the first is centred on (1.5, 1.5): pixel 1's centre. Pixels
    # 0 and 2 lie half a cell away on each axis.
    mask, box = torch.tensor([[[1.0, 0], [0, 0]]]), torch.tensor([[0.5, 0.5, 4.5, 4.5]])
    bitmap = ops.paste_masks(mask, box, 5, 6, 0.4, grid=True)[0]
    assert bitmap[:3, :3].tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    assert bitmap.sum() == 5
    assert ops.paste_masks(mask, box, 5, 6, 0.6, grid=True).nonzero().tolist() == [[0, 1, 1]]


@IMPLEMENTATIONS
@pytest.mark.parametrize("side", [1, 2, 14, 28])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_the_bits_of_a_grid_are_those_of_grid_sample(ops, side, threshold):
    masks, boxes = random_masks(60, side), random_boxes(60, extent=150, largest=120) - 25
    x, y = (torch.arange(length) + 0.5 for length in (WIDTH, HEIGHT))
    corner, extent = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[..., None]
    x, y = ((x - corner[:, 0]) / extent[:, 0], (y - corner[:, 1]) / extent[:, 1])
    shape = (60, HEIGHT, WIDTH)
    places = torch.stack((x[:, None].expand(shape), y[..., None].expand(shape)), dim=-1) * 2 - 1
    expected = torch.nn.functional.grid_sample(masks[:, None], places, align_corners=False)[:, 0]
    differs = ops.paste_masks(masks, boxes, HEIGHT, WIDTH, threshold, grid=True).bool() != (
        expected > threshold
    )
    # grid_sample's coordinates are rounded once more on their way to [-1, 1] and back
    assert ((expected[differs] - threshold).abs() < 1e-5 * side).all()
    assert expected.gt(threshold).sum() > 1000


@IMPLEMENTATIONS
@pytest.mark.parametrize("grid", [False, True], ids=["whole", "grid"])
def test_parts_outside_the_image_are_cut_off(ops, grid):
    boxes = torch.tensor([[-50.0, -20, 40, 60], [100, 80, 400, 300], [-900, -900, 900, 900]])
    masks = random_masks(3)
    found = ops.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5, grid)
    margin = 1000
    whole = (HEIGHT + 2 * margin, WIDTH + 2 * margin)
    wide = ops.paste_masks(masks, boxes + margin, *whole, 0.5, grid)[
        :, margin : margin + HEIGHT, margin : margin + WIDTH
    ]
    # Moving a box by whole pixels changes its corners' rounding by a float's last digits only.
    assert (found != wide).float().mean() < 0.01
    assert found.sum() > 1000


@IMPLEMENTATIONS
@pytest.mark.parametrize("grid", [False, True], ids=["whole", "grid"])
def test_boxes_beside_the_image_and_boxes_that_are_no_boxes_leave_it_empty(ops, grid):
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


@pytest.mark.parametrize("grid", [False, True], ids=["whole", "grid"])
def test_a_huge_box_costs_only_the_image(grid):
    boxes = torch.tensor([[-1e9, -1e9, 1e9, 1e9], [-3e38, -3e38, 3e38, 3e38]])
    found = ops_cuda.paste_masks(torch.ones(2, 28, 28), boxes, HEIGHT, WIDTH, 0.5, grid)
    assert found[0].eq(1).all()
    assert found[1].sum() == 0  # beyond what a float tells apart: nowhere


def test_nothing_pastes_to_nothing():
    empty = ops_cuda.paste_masks(torch.empty(0, 28, 28), torch.empty(0, 4), 10, 20, 0.5)
    assert empty.shape == (0, 10, 20)
    assert empty.dtype == torch.uint8


def test_strides_and_types_of_the_input_do_not_matter():
    masks, boxes = random_masks(10).half(), boxes_on_canvas(10).half()
    expected = ops_cuda.paste_masks(masks.float(), boxes.float(), HEIGHT, WIDTH, 0.5)
    found = ops_cuda.paste_masks(
        masks.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat([boxes, boxes], 1)[:, :4],
        HEIGHT,
        WIDTH,
        0.5,
    )
    assert found.equal(expected)


def test_threads_do_not_change_the_result(two_thread_counts):
    masks, boxes = random_masks(50), boxes_on_canvas(50)
    one, two = two_thread_counts(lambda: ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5))
    assert one.equal(two)


@pytest.mark.parametrize(
    ("masks", "boxes", "height", "complaint"),
    [
        (torch.zeros(2, 1, 28, 28), torch.zeros(2, 4), 10, r"masks must be \(R, M, M\)"),
        (torch.zeros(2, 28, 27), torch.zeros(2, 4), 10, r"masks must be \(R, M, M\)"),
        (torch.zeros(2, 28, 28).byte(), torch.zeros(2, 4), 10, "masks must be floating point"),
        (torch.zeros(2, 28, 28), torch.zeros(3, 4), 10, "lengths disagree"),
        (torch.zeros(2, 28, 28), torch.zeros(2, 4), 0, "height must be positive"),
    ],
)
def test_wrong_arguments_are_named(masks, boxes, height, complaint):
    with pytest.raises(ValueError, match=complaint):
        ops_cuda.paste_masks(masks, boxes, height, 20, 0.5)
