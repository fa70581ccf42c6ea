"""Keypoints by products of fixed size are those of the resized heatmap."""

import pytest
import torch

from model.heads.keypoint import find_keypoints
from model.heads.keypoint_search import search_keypoints

SIDE = 56


def _boxes(count, smallest, largest, generator):
    corner = torch.rand(count, 2, generator=generator) * 50
    sides = smallest + (largest - smallest) * torch.rand(count, 2, generator=generator)
    return torch.cat((corner, corner + sides), 1)


def _peaks(count, generator):
    """One bump a heatmap, three cells wide, on noise: (count, 3, 56, 56)."""
    centre = torch.rand(count, 3, 2, generator=generator) * SIDE
    cell = torch.arange(float(SIDE))
    rows = (cell[:, None] - centre[..., :1, None]) ** 2
    columns = (cell - centre[..., 1:, None]) ** 2
    noise = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return 10 * torch.exp(-(rows + columns) / 8) + 0.1 * noise


def _noise(count, generator):
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


@pytest.mark.parametrize("make", [_peaks, _noise])
def test_in_boxes_of_up_to_two_pixels_a_cell_it_is_the_best_pixel(make):
    generator = torch.Generator().manual_seed(0)
    heatmaps, boxes = make(40, generator), _boxes(40, 0.3, 2 * SIDE, generator)
    # two roundings of the same bicubic sums
    torch.testing.assert_close(
        search_keypoints(heatmaps, boxes), find_keypoints(heatmaps, boxes), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(("largest", "pixels"), [(1000, 0.5), (2500, 1.01)])
def test_in_larger_boxes_it_is_the_best_pixel_of_a_peak_without_a_rival(largest, pixels):
    generator = torch.Generator().manual_seed(1)
    heatmaps, boxes = _peaks(12, generator), _boxes(12, 2 * SIDE, largest, generator)
    found, wanted = search_keypoints(heatmaps, boxes), find_keypoints(heatmaps, boxes)
    assert (found - wanted)[..., :2].abs().max() <= pixels  # over 1792 px, of the next one
    torch.testing.assert_close(found[..., 2], wanted[..., 2], atol=0.01, rtol=0)


def test_where_a_rival_wins_it_is_about_as_likely():
    generator = torch.Generator().manual_seed(2)
    heatmaps, boxes = _noise(15, generator), _boxes(15, 2 * SIDE, 900, generator)
    found, wanted = search_keypoints(heatmaps, boxes), find_keypoints(heatmaps, boxes)
    # logits of noise from cell to cell, of deviation 1: nothing is less smooth
    assert (wanted - found)[..., 2].max() < 1.5
    assert (found - wanted)[..., 2].max() < 1e-4


def test_no_boxes_have_no_keypoints():
    assert search_keypoints(torch.zeros(0, 3, SIDE, SIDE), torch.zeros(0, 4)).shape == (0, 3, 3)
