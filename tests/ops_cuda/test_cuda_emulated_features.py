"""CUDA kernels that process feature maps, compiled for the host, against the CPU kernels."""

import pytest
import torch

import ops_cuda
from tests.ops_cuda.scenes import DEFORM_GEOMETRY, SCALES, deformed_map, pyramid, random_rois

CPU = torch.ops.ops_cuda


@pytest.mark.parametrize("channels", [3, 260])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align_agrees_forward_and_backward(gpu, channels, channels_last, ratio, aligned, dtype):
    maps = pyramid(channels=channels, side=96, dtype=dtype, channels_last=channels_last)
    rois = random_rois(20, side=96).to(dtype)
    options = (SCALES, 5, ratio, aligned, 24.0, 3, 0.0 if aligned else 1.0)
    pooled = CPU.multiscale_roi_align(maps, rois, *options)
    actual = gpu.multiscale_roi_align(maps, rois, *options)
    assert actual.stride() == pooled.stride()
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(actual, pooled, **close)
    weights = torch.rand_like(pooled)
    expected = CPU.multiscale_roi_align_backward(weights, maps, rois, *options)
    grads = gpu.multiscale_roi_align_backward(weights, maps, rois, *options)
    assert [each.stride() for each in grads] == [each.stride() for each in expected]
    torch.testing.assert_close(grads, expected, **close)


@pytest.mark.parametrize("channels", [1, 3, 256, 260, 261])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_without_vector_atomics_agrees_with_that_with_them(
    gpu, gpu_before_9, channels, dtype
):
    # All operators are defined in both libraries, but only ROI align has the other kernels.
    maps = pyramid(channels=channels, side=96, dtype=dtype)
    rois = random_rois(20, side=96).to(torch.promote_types(dtype, torch.float32))
    options = (SCALES, 5, 2, True, 24.0, 3, 0.0)
    weights = torch.rand_like(gpu.multiscale_roi_align(maps, rois, *options))
    expected = gpu.multiscale_roi_align_backward(weights, maps, rois, *options)
    grads = gpu_before_9.multiscale_roi_align_backward(weights, maps, rois, *options)
    assert any(each.any() for each in grads)
    # The emulation adds in the same order with both.
    assert all(one.equal(other) for one, other in zip(grads, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 260])
def test_half_types_are_summed_in_float32_and_rounded_once(gpu, dtype, channels):
    maps = pyramid(channels=channels, side=96, dtype=dtype)
    exact, rois = [each.float() for each in maps], random_rois(20, side=96)
    options = (SCALES, 5, 2, True, 24.0, 3, 0.0)
    pooled = gpu.multiscale_roi_align(maps, rois, *options)
    expected = gpu.multiscale_roi_align(exact, rois, *options)
    assert pooled.equal(expected.to(dtype))
    weights = torch.rand_like(pooled)
    grads = gpu.multiscale_roi_align_backward(weights, maps, rois, *options)
    expected = gpu.multiscale_roi_align_backward(weights.float(), exact, rois, *options)
    assert all(one.equal(other.to(dtype)) for one, other in zip(grads, expected, strict=True))


def test_invalid_rois_are_zero_and_have_no_gradient(gpu):
    maps = pyramid(channels=4, side=96)
    nan, infinity = float("nan"), float("inf")
    rois = torch.tensor(
        [
            [0, nan, 10, 20, 20],
            [0, 10, 10, infinity, 20],
            [7, 10, 10, 20, 20],
            [-1, 10, 10, 20, 20],
            [nan, 10, 10, 20, 20],
        ]
    )
    for ratio in (0, 2):
        options = (SCALES, 3, ratio, True, 224.0, 4, 0.0)
        pooled = gpu.multiscale_roi_align(maps, rois, *options)
        assert pooled.eq(0).all()
        grads = gpu.multiscale_roi_align_backward(torch.ones_like(pooled), maps, rois, *options)
        assert all(each.eq(0).all() for each in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("modulated", [True, False])
def test_sampled_taps_and_their_gradients_agree(gpu, dtype, modulated):
    x, offsets, modulation = deformed_map(dtype=torch.float64)
    offsets[0, 0, 0, 0], offsets[1, 3, 2, 1] = float("nan"), 1e30
    x, exact = x.to(dtype), torch.float64 if dtype == torch.float64 else torch.float32
    rest = (offsets.to(exact), modulation.to(exact) if modulated else None, DEFORM_GEOMETRY)
    columns = gpu.deform_columns(x, *rest)
    # The same products in the same order; bfloat16 is rounded at the end.
    tolerance = {"rtol": 1e-2 if dtype == torch.bfloat16 else 1e-6, "atol": 1e-6}
    expected = CPU.deform_columns(x.to(exact), *rest)
    torch.testing.assert_close(columns, expected.to(dtype), **tolerance)
    gradient = torch.rand(columns.shape, dtype=torch.float64).to(dtype)
    gpu_grads = gpu.deform_columns_backward(gradient, x, *rest)
    grads = CPU.deform_columns_backward(gradient.to(exact), x.to(exact), *rest)
    for gpu_grad, grad in zip(gpu_grads, grads, strict=True):
        # Sums of up to nine products, in another order.
        close = {"rtol": 1e-2 if dtype == torch.bfloat16 else 1e-5, "atol": 1e-5}
        torch.testing.assert_close(gpu_grad, grad.to(gpu_grad.dtype), **close)


@pytest.mark.parametrize("channels", [1, 3, 8, 72])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bias_shortcut_and_relu_are_added_as_on_the_cpu(gpu, channels, dtype):
    x, shortcut = torch.randn(2, 5, channels, 40, 16).to(dtype).unbind(0)
    bias = torch.randn(channels, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=layout)
        for arguments in ((bias, shortcut, True), (bias, None, False), (None, shortcut, True)):
            expected = ops_cuda.add_bias_relu_(x.clone().to(bias.dtype), *arguments).to(dtype)
            actual = x.clone()
            gpu.add_bias_relu_(actual, *arguments)
            assert actual.equal(expected)
