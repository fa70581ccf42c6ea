import pytest
import torch
import torchvision

from ops_cuda import deform_conv2d
from ops_cuda.deform_columns import deform_columns_reference
from ops_cuda.deform_conv import deform_conv2d_reference
from tests.ops_cuda.scenes import DEFORM_GEOMETRY, deformed_map

GEOMETRIES = {
    "plain": {},
    "padded": {"padding": (1, 1)},
    "strided": {"stride": (2, 2), "padding": (1, 1)},
    "dilated": {"dilation": (2, 2), "padding": (2, 2)},
    "uneven": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
}


def arguments(geometry, groups=1, deformable_groups=1, modulated=True, kernel=(3, 3), spread=2.0):
    """Return two maps of 9 x 11, and offsets that point beyond their borders; float64."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias = random(2, 8, 9, 11), random(6, 8 // groups, *kernel), random(6)
    height, width = torch.nn.functional.conv2d(
        x, weight, groups=groups, **GEOMETRIES[geometry]
    ).shape[2:]
    taps = kernel[0] * kernel[1] * deformable_groups
    offsets = spread * random(2, 2 * taps, height, width)
    modulation = random(2, taps, height, width).sigmoid() if modulated else None
    return x, offsets, weight, bias, modulation


def torchvision_deform_conv2d(x, offsets, weight, bias, modulation, **geometry):
    return torchvision.ops.deform_conv2d(x, offsets, weight, bias, mask=modulation, **geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
@pytest.mark.parametrize(("groups", "deformable_groups"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_values_and_gradients_match_torchvision(geometry, modulated, groups, deformable_groups):
    tensors = [
        t if t is None else t.requires_grad_()
        for t in arguments(geometry, groups, deformable_groups, modulated)
    ]
    actual = deform_conv2d(*tensors, **GEOMETRIES[geometry])
    expected = torchvision_deform_conv2d(*tensors, **GEOMETRIES[geometry])
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(actual.shape, generator=torch.Generator().manual_seed(1)).double()
    leaves = [t for t in tensors if t is not None]
    actual_grads = torch.autograd.grad(actual, leaves, weights)
    expected_grads = torch.autograd.grad(expected, leaves, weights)
    torch.testing.assert_close(actual_grads, expected_grads)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_reference_agrees_even_with_nan_offsets(geometry):
    tensors = arguments(geometry, groups=2, deformable_groups=2)
    tensors[1][0, 5, 0, 0], tensors[1][1, 4, 2, 1] = float("nan"), 1e30
    options = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)} | GEOMETRIES[geometry]
    expected = deform_conv2d_reference(*tensors, *options.values())
    # the reference converts positions to the range -1 to 1 and back
    torch.testing.assert_close(deform_conv2d(*tensors, **options), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
def test_the_reference_of_the_sampled_taps_agrees(modulated):
    x, offsets, modulation = deformed_map(dtype=torch.float64)
    offsets[0, 0, 0, 0], offsets[1, 3, 2, 1] = float("nan"), 1e30
    arguments = (x, offsets, modulation if modulated else None, DEFORM_GEOMETRY)
    expected = deform_columns_reference(*arguments)
    torch.testing.assert_close(torch.ops.ops_cuda.deform_columns(*arguments), expected)


@pytest.mark.parametrize("modulated", [False, True], ids=["v1", "v2"])
def test_autocast_multiplies_in_its_type_and_returns_gradients_in_the_parameters_type(modulated):
    tensors = [
        None if t is None else t.float().requires_grad_()
        for t in arguments("padded", groups=2, modulated=modulated)
    ]
    exact = deform_conv2d(*tensors, padding=(1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        y = deform_conv2d(*tensors, padding=(1, 1))
    assert y.dtype == torch.bfloat16
    # eight bits, of sums of a few tens of products
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.2)
    y.float().sum().backward()
    for tensor in tensors:
        assert tensor is None or tensor.grad.dtype == torch.float32


def test_kernels_may_be_rectangular():
    tensors = arguments("plain", kernel=(1, 3))
    torch.testing.assert_close(deform_conv2d(*tensors), torchvision_deform_conv2d(*tensors))


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_zero_offsets_give_an_ordinary_convolution(geometry):
    x, offsets, weight, bias, modulation = arguments(geometry, groups=2)
    x, weight, bias = x.float(), weight.float(), bias.float()
    actual = deform_conv2d(
        x, offsets.zero_(), weight, bias, modulation.fill_(1).float(), **GEOMETRIES[geometry]
    )
    expected = torch.nn.functional.conv2d(x, weight, bias, groups=2, **GEOMETRIES[geometry])
    # Single precision: positions converted to the range -1 to 1 and back are within 1e-6 pixel.
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_sampled_values_are_not_saved_for_the_gradient():
    x, offsets, weight, bias, modulation = (t.requires_grad_() for t in arguments("padded"))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.untyped_storage()) or t, lambda t: t
    ):
        y = deform_conv2d(x, offsets, weight, bias, modulation, padding=(1, 1))
    inputs = {t.untyped_storage().data_ptr() for t in (x, offsets, weight, bias, modulation)}
    others = {s.data_ptr(): s.nbytes() for s in saved if s.data_ptr() not in inputs}
    assert sum(others.values()) < x.nbytes
    y.sum().backward()
    assert weight.grad is not None


def test_the_layout_is_kept_and_positions_are_float32_for_half_offsets():
    x, offsets, weight, bias, modulation = (t.float() for t in arguments("padded"))
    x = x.contiguous(memory_format=torch.channels_last)
    exact = deform_conv2d(x, offsets, weight, bias, modulation, padding=(1, 1))
    assert exact.is_contiguous(memory_format=torch.channels_last)
    rounded = offsets.bfloat16()
    expected = deform_conv2d(x, rounded.float(), weight, bias, modulation, padding=(1, 1))
    actual = deform_conv2d(x, rounded, weight, bias, modulation, padding=(1, 1))
    assert actual.equal(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(8, 9, 11)}, "x must have 4 dimensions"),
        ({2: torch.zeros(6, 3, 3, 3)}, "does not fit the 8 channels"),
        ({1: torch.zeros(2, 17, 9, 11)}, r"offsets must be \(2, 2 \* N \* 9"),
        ({1: torch.zeros(2, 18, 8, 11), 4: None}, r"output's size \(9, 11\)"),
        ({3: torch.zeros(5)}, r"bias must be \(6,\)"),
        ({4: torch.zeros(2, 18, 9, 11)}, r"modulation must be \(2, 9, 9, 11\)"),
    ],
)
def test_invalid_arguments_are_named(change, message):
    tensors = [change.get(i, t) for i, t in enumerate(arguments("padded"))]
    with pytest.raises(ValueError, match=message):
        deform_conv2d(*tensors, padding=(1, 1))
