from collections import OrderedDict

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

import ops_cuda
from ops_cuda.roi_align_reference import multiscale_roi_align_reference, pyramid_levels
from tests.ops_cuda.implementations import both_implementations
from tests.ops_cuda.scenes import SCALES, pyramid, random_rois

IMPLEMENTATIONS = both_implementations(multiscale_roi_align_reference)
LAYOUTS = pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
ALIGNED = pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
# Sums of up to a few hundred products, in another order than torchvision's.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def gradients(pooled, maps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(pooled.shape, generator=generator, dtype=torch.float64)
    return torch.autograd.grad(pooled, maps, weights.to(pooled.dtype))


@IMPLEMENTATIONS
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_bins_of_a_ramp_have_the_value_at_their_center(ops, ratio):
    ramp = torch.arange(32.0).expand(1, 2, 32, 32).contiguous()
    ramp[0, 1] = ramp[0, 0].T.clone()
    rois = torch.tensor([[0, 8.0, 4.0, 24.0, 20.0]])
    pooled = ops.multiscale_roi_align([ramp], rois, [1.0], 4, ratio, aligned=True)
    # Pixel i covers [i, i + 1) and has the value i: position p has the value p - 0.5.
    columns = torch.tensor([10.0, 14.0, 18.0, 22.0]) - 0.5
    torch.testing.assert_close(pooled[0, 0], columns.expand(4, 4))
    torch.testing.assert_close(pooled[0, 1], (columns - 4)[:, None].expand(4, 4))
    legacy = ops.multiscale_roi_align([ramp], rois, [1.0], 4, ratio, aligned=False)
    torch.testing.assert_close(legacy, pooled + 0.5)


def test_the_side_of_a_roi_determines_its_level():
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 5000])
    rois = torch.stack([torch.zeros(8), torch.zeros(8), torch.zeros(8), sides, sides], 1)
    levels = pyramid_levels(rois, SCALES, 224.0, 4)
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    rois[0, 3] = float("nan")
    assert pyramid_levels(rois, SCALES, 224.0, 4)[0] == 0
    # maps filled with their own level show which one a ROI was pooled from
    maps = [torch.full((1, 1, 64, 64), float(level)) for level in range(4)]
    rois[0, 3] = 1.0
    pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 1, 1)
    inside = levels[:-1]  # the last ROI extends beyond its map
    assert pooled[:-1].flatten().tolist() == inside.tolist()


@IMPLEMENTATIONS
@ALIGNED
def test_the_far_corner_is_moved_after_the_level_is_assigned(ops, aligned):
    rois = torch.tensor([[0, 8.0, 4.0, 120.0, 116.0], [1, 30.0, 20.0, 90.5, 70.0]])
    maps, smaller = pyramid(channels=3, side=160), rois - torch.tensor([0, 0, 0, 1.0, 1.0])
    options = (5, 2, aligned, 112.0, 4)
    actual = ops.multiscale_roi_align(maps, rois, SCALES, *options, far_corner_inset=1.0)
    for roi, level in ((0, 2), (1, 0)):  # 112 pixels belong to level 2, 111 to level 1
        single_map, single_roi = [maps[level]], smaller[roi : roi + 1]
        expected = ops.multiscale_roi_align(single_map, single_roi, [SCALES[level]], *options)
        torch.testing.assert_close(actual[roi], expected[0], **CLOSE)
    assert not torch.allclose(
        actual[0], ops.multiscale_roi_align(maps, smaller, SCALES, *options)[0]
    )


def test_the_gradient_with_a_far_corner_inset_matches_the_reference():
    rois = random_rois(6, side=64)
    maps = [each.double().requires_grad_() for each in pyramid(channels=2, side=64)]
    arguments = (maps, rois.double(), SCALES, 3, 2, False, 224.0, 4, 1.0)
    expected = gradients(multiscale_roi_align_reference(*arguments), maps)
    torch.testing.assert_close(gradients(ops_cuda.multiscale_roi_align(*arguments), maps), expected)


@IMPLEMENTATIONS
@ALIGNED
@LAYOUTS
@pytest.mark.parametrize("ratio", [0, 2])
def test_one_level_matches_torchvision_roi_align(ops, aligned, channels_last, ratio):
    [fine, *_] = pyramid(channels_last=channels_last)
    fine.requires_grad_()
    rois = random_rois(40)
    pooled = ops.multiscale_roi_align([fine], rois, [1 / 4], 7, ratio, aligned)
    expected = torchvision.ops.roi_align(fine, rois, 7, 1 / 4, ratio, aligned)
    torch.testing.assert_close(pooled, expected, **CLOSE)
    torch.testing.assert_close(
        gradients(pooled, [fine]), gradients(expected, [fine]), rtol=1e-5, atol=1e-4
    )


@LAYOUTS
@pytest.mark.parametrize("ratio", [0, 2])
def test_the_pyramid_matches_torchvision_multi_scale_roi_align(channels_last, ratio):
    maps = [each.requires_grad_() for each in pyramid(channels_last=channels_last, side=416)]
    rois = random_rois(80, side=416)
    rois = rois[rois[:, 0].argsort(stable=True)]
    pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, ratio, aligned=False)
    names = ["p2", "p3", "p4", "p5"]
    pooler = torchvision.ops.MultiScaleRoIAlign(names, 7, ratio)
    expected = pooler(
        OrderedDict(zip(names, maps, strict=True)),
        [rois[rois[:, 0] == image, 1:] for image in range(2)],
        [(416, 520)] * 2,
    )
    torch.testing.assert_close(pooled, expected, **CLOSE)
    torch.testing.assert_close(
        gradients(pooled, maps), gradients(expected, maps), rtol=1e-5, atol=1e-4
    )


@LAYOUTS
@ALIGNED
@pytest.mark.parametrize("channels", [1, 5, 16, 64, 83])
def test_the_reference_agrees_to_the_last_digits_in_float64(channels_last, aligned, channels):
    maps = pyramid(channels=channels, dtype=torch.float64, channels_last=channels_last)
    maps = [each.requires_grad_() for each in maps]
    rois = random_rois(30)
    for ratio in (0, 2):
        pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 5, ratio, aligned)
        expected = multiscale_roi_align_reference(maps, rois.double(), SCALES, 5, ratio, aligned)
        torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            gradients(pooled, maps), gradients(expected, maps), rtol=1e-11, atol=1e-11
        )


def test_the_gradient_passes_gradcheck():
    maps = [each.requires_grad_() for each in pyramid(1, 2, 32, torch.float64)]
    rois = random_rois(6, images=1, side=32)

    def pool(*levels):
        return ops_cuda.multiscale_roi_align(
            levels, rois, SCALES, 2, canonical_side=6.0, canonical_level=3
        )

    assert len(pyramid_levels(rois, SCALES, 6.0, 3).unique()) > 2
    assert torch.autograd.gradcheck(pool, maps)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    side=st.integers(1, 9),
    ratio=st.integers(0, 3),
    aligned=st.booleans(),
    channels_last=st.booleans(),
)
def test_backward_is_the_adjoint_of_forward(seed, side, ratio, aligned, channels_last):
    maps = pyramid(channels=3, side=96, dtype=torch.float64, channels_last=channels_last)
    maps = [each.requires_grad_() for each in maps]
    rois = random_rois(5, side=96, seed=seed)
    pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, side, ratio, aligned)
    weights = torch.randn(
        pooled.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    actual = torch.autograd.grad(pooled, maps, weights)
    by_output = (pooled * weights).sum()
    by_input = sum((each * grad).sum() for each, grad in zip(maps, actual, strict=True))
    torch.testing.assert_close(by_output, by_input)


@IMPLEMENTATIONS
def test_samples_outside_the_map_and_of_invalid_boxes_are_zero(ops):
    maps = [torch.ones(1, 3, 64 >> level, 64 >> level) for level in range(4)]
    infinity, nan = float("inf"), float("nan")
    rois = torch.tensor(
        [
            [0, 1000.0, 1000.0, 1100.0, 1100.0],
            [0, -900.0, 0.0, -800.0, 50.0],
            [0, nan, 10.0, 20.0, 20.0],
            [0, 10.0, 10.0, infinity, 20.0],
            [0, -infinity, -infinity, infinity, infinity],
        ]
    )
    for ratio in (0, 2):
        for aligned in (True, False):
            pooled = ops.multiscale_roi_align(maps, rois, SCALES, 4, ratio, aligned)
            assert pooled.eq(0).all()


@ALIGNED
def test_a_roi_far_larger_than_its_map_is_pooled_in_bounded_time(aligned):
    rois = torch.tensor([[0, -1e9, -1e9, 1e9, 1e9], [0, -1e30, -1e30, 1e30, 1e30]])
    pooled = ops_cuda.multiscale_roi_align([torch.ones(1, 3, 9, 9)], rois, [1.0], 4, 0, aligned)
    assert pooled.isfinite().all()


@ALIGNED
@pytest.mark.parametrize("ratio", [0, 2])
def test_empty_and_inverted_boxes_match_torchvision(aligned, ratio):
    [fine, *_] = pyramid(images=1)
    rois = torch.tensor([[0, 40.0, 40, 40, 40], [0, 60, 70, 40, 50], [0, 10, 10, 10, 90]])
    pooled = ops_cuda.multiscale_roi_align([fine], rois, [1 / 4], 7, ratio, aligned)
    expected = torchvision.ops.roi_align(fine, rois, 7, 1 / 4, ratio, aligned)
    torch.testing.assert_close(pooled, expected, **CLOSE)


@IMPLEMENTATIONS
@LAYOUTS
def test_without_rois_the_gradient_is_zero_not_none(ops, channels_last):
    maps = [each.requires_grad_() for each in pyramid(channels_last=channels_last)]
    pooled = ops.multiscale_roi_align(maps, torch.empty(0, 5), SCALES, 7)
    assert pooled.shape == (0, 19, 7, 7)
    for grad in torch.autograd.grad(pooled.sum(), maps):
        assert grad.eq(0).all()


@LAYOUTS
def test_the_result_and_the_gradient_have_the_layout_of_the_maps(channels_last):
    maps = [each.requires_grad_() for each in pyramid(channels_last=channels_last)]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    pooled = ops_cuda.multiscale_roi_align(maps, random_rois(9), SCALES, 7)
    assert pooled.is_contiguous(memory_format=layout)
    for grad in gradients(pooled, maps):
        assert grad.is_contiguous(memory_format=layout)


def test_input_strides_do_not_matter():
    maps = pyramid(channels=6)
    rois = random_rois(20)
    expected = ops_cuda.multiscale_roi_align([each[:, ::2] for each in maps], rois, SCALES, 7)
    dense = [each[:, ::2].contiguous() for each in maps]
    strided_rois = torch.stack([rois, rois], 2).flatten(1)[:, ::2]
    assert not strided_rois.is_contiguous()
    assert ops_cuda.multiscale_roi_align(dense, strided_rois, SCALES, 7).equal(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_pooled_in_float32_and_rounded_once(dtype):
    maps = [each.requires_grad_() for each in pyramid(dtype=dtype)]
    exact = [each.detach().float().requires_grad_() for each in maps]
    rois = random_rois(20)
    pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    expected = ops_cuda.multiscale_roi_align(exact, rois, SCALES, 7)
    assert pooled.dtype == dtype
    assert pooled.equal(expected.to(dtype))
    actual = torch.autograd.grad(pooled.float().sum(), maps)
    exact_grads = torch.autograd.grad(expected.sum(), exact)
    assert all(a.equal(b.to(dtype)) for a, b in zip(actual, exact_grads, strict=True))


def test_autocast_keeps_the_type_of_the_maps():
    maps, rois = pyramid(), random_rois(9)
    expected = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7).equal(expected)


def test_the_result_does_not_depend_on_the_thread_count(two_thread_counts):
    maps = [each.requires_grad_() for each in pyramid(channels=48)]
    rois = random_rois(200)

    def forward_and_backward():
        pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
        return pooled, *gradients(pooled, maps)

    one, two = two_thread_counts(forward_and_backward)
    assert all(a.equal(b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("image", [-1.0, 2.0, float("nan")])
def test_an_image_index_outside_the_batch_raises(image):
    rois = random_rois(3)
    rois[1, 0] = image
    with pytest.raises(RuntimeError, match=r"rois\[1\] is of image .*, but the batch has 2"):
        ops_cuda.multiscale_roi_align(pyramid(), rois, SCALES, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rois": torch.zeros(3, 4)}, r"rois must be \(N, 5\); got \(3, 4\)"),
        ({"scales": [1 / 4, 1 / 8]}, "4 features but 2 scales"),
        ({"scales": [1 / 4, 1 / 8, 1 / 16, 1 / 30]}, "consecutive powers of two"),
        ({"scales": [1 / 32, 1 / 16, 1 / 8, 1 / 4]}, "finest first"),
        ({"output_side": 0}, "output_side must be positive"),
        ({"sampling_ratio": -1}, "sampling_ratio must be 0"),
        ({"features": [torch.zeros(1, 2, 8, 8)] * 3 + [torch.zeros(2, 8, 8)]}, r"features\[3\]"),
        ({"features": [*pyramid()[:3], torch.zeros(2, 8, 8, 8)]}, "features must agree"),
        ({"features": [*pyramid()[:3], torch.zeros(2, 19, 0, 4)]}, "not empty"),
    ],
)
def test_invalid_arguments_are_named(changes, message):
    arguments = {
        "features": pyramid(),
        "rois": random_rois(3),
        "scales": SCALES,
        "output_side": 7,
    }
    with pytest.raises(ValueError, match=message):
        ops_cuda.multiscale_roi_align(**(arguments | changes))
