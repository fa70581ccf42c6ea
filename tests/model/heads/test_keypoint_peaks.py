import pytest
import torch
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from model.heads.keypoint import KeypointHead, keypoint_targets
from model.heads.keypoint_peaks import find_peaks, find_peaks_for_export
from tests.model.heads.rois import positive_rois

SIDE = 56


def skewed_boxes(count, largest):
    """Return boxes with sides up to ``largest``, most of them much smaller."""
    generator = torch.Generator().manual_seed(count)
    corners = torch.rand(count, 2, generator=generator) * 200
    sides = torch.rand(count, 2, generator=generator) ** 3 * largest
    return torch.cat((corners, corners + sides), 1)


@pytest.mark.parametrize("largest", [3, 300], ids=["thin", "large"])
def test_peaks_match_the_keypoints_of_torchvision(largest):
    head = KeypointHead(8, 16, 1, num_keypoints=5)
    boxes = skewed_boxes(12, largest)
    with torch.inference_mode():
        heatmaps = 10 * head(torch.randn(12, 8, 14, 14))
        expected, logits = heatmaps_to_keypoints(heatmaps, boxes)
        peaks = find_peaks(heatmaps, boxes)
    assert boxes[:, 2].max() > largest / 2
    torch.testing.assert_close(peaks[..., :2], expected[..., :2], atol=1e-4, rtol=0)
    torch.testing.assert_close(peaks[..., 2], logits)  # summed in another order, fp32


def test_a_single_high_cell_peaks_at_its_center_and_is_the_target_of_that_keypoint():
    # 3 pixels per cell, so that one is at its center. At the border the bicubic kernel would move
    # the peak outward.
    box = torch.tensor([[10.25, 20.5, 10.25 + 3 * SIDE, 20.5 + 3 * SIDE]])
    cells = torch.tensor([[1, 1], [7, 40], [54, 54], [30, 31]])
    heatmaps = torch.zeros(1, 4, SIDE, SIDE)
    heatmaps[0, torch.arange(4), cells[:, 1], cells[:, 0]] = 5
    peaks = find_peaks(heatmaps, box)
    torch.testing.assert_close(peaks[0, :, :2], box[0, :2] + 3 * (cells + 0.5))
    # A bicubic resize interpolates: at the center of a cell it has the value of the cell.
    torch.testing.assert_close(peaks[0, :, 2], torch.full((4,), 5.0))
    targets = keypoint_targets(peaks, positive_rois([0], box, [0]), SIDE, torch.zeros(1, 2))
    assert targets.cells[0].equal(heatmaps[0].flatten(1).argmax(1))


def test_autocast_does_not_move_peaks():
    heatmaps = torch.randn(3, 5, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    expected = find_peaks(heatmaps, skewed_boxes(3, 200))
    with torch.autocast("cpu", torch.bfloat16):
        assert find_peaks(heatmaps, skewed_boxes(3, 200)).equal(expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peaks_on_the_gpu_equal_those_on_the_cpu():
    heatmaps = torch.randn(8, 5, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    boxes = skewed_boxes(8, 200)
    peaks = find_peaks(heatmaps.cuda(), boxes.cuda()).cpu()
    torch.testing.assert_close(peaks, find_peaks(heatmaps, boxes), atol=1e-3, rtol=1e-4)


def uniform_boxes(count, smallest, largest, generator):
    corner = torch.rand(count, 2, generator=generator) * 50
    sides = smallest + (largest - smallest) * torch.rand(count, 2, generator=generator)
    return torch.cat((corner, corner + sides), 1)


def single_peaks(count, generator):
    """Return heatmaps with one peak, three cells wide, on noise: (count, 3, 56, 56)."""
    center = torch.rand(count, 3, 2, generator=generator) * SIDE
    cell = torch.arange(float(SIDE))
    rows = (cell[:, None] - center[..., :1, None]) ** 2
    columns = (cell - center[..., 1:, None]) ** 2
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return 10 * torch.exp(-(rows + columns) / 8) + 0.1 * noise


def noise(count, generator):
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


@pytest.mark.parametrize("make", [single_peaks, noise])
def test_exported_peaks_are_exact_in_boxes_of_up_to_two_pixels_per_cell(make):
    generator = torch.Generator().manual_seed(0)
    heatmaps, boxes = make(40, generator), uniform_boxes(40, 0.3, 2 * SIDE, generator)
    # The same bicubic sums with other roundings.
    torch.testing.assert_close(
        find_peaks_for_export(heatmaps, boxes), find_peaks(heatmaps, boxes), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("largest", "pixels"), [(1000, 0.5), (2500, 1.01)])
def test_exported_peaks_are_exact_in_larger_boxes_without_a_second_high_peak(largest, pixels):
    generator = torch.Generator().manual_seed(1)
    heatmaps, boxes = single_peaks(12, generator), uniform_boxes(12, 2 * SIDE, largest, generator)
    result, expected = find_peaks_for_export(heatmaps, boxes), find_peaks(heatmaps, boxes)
    # Above 1792 pixels per axis it may be the next pixel.
    assert (result - expected)[..., :2].abs().max() <= pixels
    torch.testing.assert_close(result[..., 2], expected[..., 2], atol=0.01, rtol=0)


def test_an_exported_peak_that_is_not_the_maximum_is_almost_as_high():
    generator = torch.Generator().manual_seed(2)
    heatmaps, boxes = noise(15, generator), uniform_boxes(15, 2 * SIDE, 900, generator)
    result, expected = find_peaks_for_export(heatmaps, boxes), find_peaks(heatmaps, boxes)
    # Independent logits of deviation 1 in neighboring cells: no heatmap is less smooth.
    assert (expected - result)[..., 2].max() < 1.5
    assert (result - expected)[..., 2].max() < 1e-4


@pytest.mark.parametrize("find", [find_peaks, find_peaks_for_export])
def test_no_boxes_have_no_peaks(find):
    assert find(torch.zeros(0, 5, SIDE, SIDE), torch.zeros(0, 4)).shape == (0, 5, 3)
