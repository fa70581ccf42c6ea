import torch
from torchvision.ops import MultiScaleRoIAlign, roi_align

from model.layers.roi_pooling import RoiPooler


def random_rois(count):
    """Return (count, 5) boxes of 1 to 400 pixels in 2 images of 256 x 320."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * 200
    sides = 1 + torch.rand(count, 2, generator=generator) ** 2 * 399
    image = (torch.arange(count) % 2)[:, None]
    return torch.cat((image, corner, corner + sides), 1)


def random_pyramid(strides):
    return [torch.randn(2, 6, 256 // stride, 320 // stride) for stride in strides]


def test_pooling_a_pyramid_matches_torchvision_and_never_reads_p6():
    features = random_pyramid((4, 8, 16, 32, 64))
    features[4].fill_(torch.nan)
    rois = random_rois(30)
    rois = rois[rois[:, 0].argsort(stable=True)]
    pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    maps = {str(level): feature for level, feature in enumerate(features[:4])}
    boxes = [rois[rois[:, 0] == image, 1:] for image in (0, 1)]
    expected = pooler(maps, boxes, [(256, 320)] * 2)
    torch.testing.assert_close(
        RoiPooler(7, aligned=False)(features, rois), expected, rtol=1e-4, atol=1e-4
    )


def test_pooling_a_single_map_is_roi_align_at_its_stride():
    features, rois = random_pyramid((16,)), random_rois(20)
    expected = roi_align(features[0], rois, 14, 1 / 16, 0, aligned=True)
    pooled = RoiPooler(14, sampling_ratio=0, strides=(16,))(features, rois)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)


def test_far_corner_inset_moves_the_far_corner_inward():
    features, rois = random_pyramid((16,)), random_rois(20)
    inset_rois = rois.clone()
    inset_rois[:, 3:] -= 1
    pooled = RoiPooler(7, strides=(16,), far_corner_inset=1.0)(features, rois)
    torch.testing.assert_close(pooled, RoiPooler(7, strides=(16,))(features, inset_rois))
