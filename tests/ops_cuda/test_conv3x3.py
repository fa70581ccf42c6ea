import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import ops_cuda
from ops_cuda.conv3x3 import conv3x3_relu_reference, pack_conv3x3_reference, unpack_conv3x3

# Register widths in bytes, one per instruction set; those this machine lacks fall back.
WIDTHS = (64, 32, 16)
# Relative to the largest output; Winograd's transforms lose about a decimal digit against direct
# sums (1e-6).
TOLERANCE = 3e-5


def layer(inputs, outputs, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
    return weight, torch.randn(outputs, generator=generator)


def maps(*shape, seed=1):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def exact(x, weight, bias, relu):
    y = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    return F.relu(y) if relu else y


def relative_error(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def convolve(x, weight, bias=None, relu=False):
    packed = ops_cuda.pack_conv3x3(weight)
    return ops_cuda.conv3x3_relu(x, packed, bias, len(weight), relu)


def test_a_filter_of_ones_counts_the_neighbors():
    x = torch.ones(1, 1, 5, 6)
    expected = torch.full((1, 1, 5, 6), 9.0)
    expected[:, :, [0, -1]], expected[:, :, :, [0, -1]] = 6.0, 6.0
    expected[0, 0, [0, 0, -1, -1], [0, -1, 0, -1]] = 4.0
    counted = convolve(x, torch.ones(1, 1, 3, 3))
    torch.testing.assert_close(counted, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (0, 2), (1, 1), (2, 0), (2, 1)])
def test_a_filter_with_one_entry_shifts_the_map(dy, dx):
    x = maps(1, 1, 9, 7)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, dy, dx] = 1
    expected = F.pad(x, (1, 1, 1, 1))[:, :, dy : dy + 9, dx : dx + 7]
    torch.testing.assert_close(convolve(x, weight), expected, rtol=0, atol=3e-5)


def test_bias_is_added_before_relu():
    x, weight = torch.zeros(1, 2, 3, 3), torch.zeros(3, 2, 3, 3)
    bias = torch.tensor([-1.0, 0.0, 2.0])
    rectified = convolve(x, weight, bias, relu=True)
    assert rectified[0, :, 1, 1].tolist() == [0.0, 0.0, 2.0]
    linear = convolve(x, weight, bias, relu=False)
    assert linear[0, :, 1, 1].tolist() == [-1.0, 0.0, 2.0]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [((1, 256, 25, 34), 256), ((3, 64, 14, 14), 80), ((2, 5, 1, 1), 33), ((1, 17, 2, 31), 1)],
)
def test_every_instruction_set_agrees_with_float64(width, shape, outputs):
    x, (weight, bias) = maps(*shape), layer(shape[1], outputs)
    packed = ops_cuda.pack_conv3x3(weight)
    actual = torch.ops.ops_cuda.conv3x3_relu(x, packed, bias, outputs, True, width)
    assert relative_error(actual, exact(x, weight, bias, True)) < TOLERANCE


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 23),
    st.integers(1, 23),
    st.booleans(),
    st.sampled_from(WIDTHS),
)
def test_the_reference_agrees_for_any_shape(images, inputs, outputs, height, width, relu, bytes_):
    x, (weight, bias) = maps(images, inputs, height, width), layer(inputs, outputs)
    packed = ops_cuda.pack_conv3x3(weight)
    expected = conv3x3_relu_reference(x, packed, bias, outputs, relu)
    actual = torch.ops.ops_cuda.conv3x3_relu(x, packed, bias, outputs, relu, bytes_)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    largest = exact(x, weight, bias, False).abs().max() if images else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE * float(largest))


def test_the_reference_of_packing_agrees_and_packing_is_invertible():
    weight, _ = layer(19, 45)
    packed = ops_cuda.pack_conv3x3(weight)
    assert packed.shape == (36, 2, 19, 32)
    assert not packed[:, 1, :, 13:].any()
    torch.testing.assert_close(packed, pack_conv3x3_reference(weight), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(unpack_conv3x3(packed, 45), weight, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 64, 100, 37), (5, 32, 14, 14), (1, 256, 3, 3)])
def test_the_result_does_not_depend_on_the_thread_count(shape, two_thread_counts):
    x, (weight, bias) = maps(*shape), layer(shape[1], 48)
    one, two = two_thread_counts(lambda: convolve(x, weight, bias, relu=True))
    assert one.equal(two)


def test_the_result_of_an_image_does_not_depend_on_its_batch():
    x, (weight, bias) = maps(7, 32, 10, 9), layer(32, 32)
    batch = convolve(x, weight, bias)
    assert all(batch[i : i + 1].equal(convolve(x[i : i + 1], weight, bias)) for i in range(7))


def test_input_layout_and_strides_do_not_matter():
    x, (weight, bias) = maps(2, 20, 11, 13), layer(20, 24)
    expected = convolve(x, weight, bias)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    assert convolve(x.contiguous(), weight, bias).equal(expected)
    wide = torch.zeros(2, 40, 11, 26)
    wide[:, ::2, :, ::2] = x
    assert convolve(wide[:, ::2, :, ::2], weight, bias).equal(expected)
    channels_last = weight.contiguous(memory_format=torch.channels_last)
    assert convolve(x, channels_last, bias.repeat(2, 1).T.flatten()[::2]).equal(expected)


def test_an_empty_batch_gives_an_empty_batch():
    weight, bias = layer(4, 6)
    assert convolve(torch.zeros(0, 4, 5, 5), weight, bias).shape == (0, 6, 5, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_affects_only_the_tiles_it_touches(value):
    weight, bias = layer(3, 5)
    clean = maps(1, 3, 20, 20)
    invalid = clean.clone()
    invalid[0, 1, 9, 9] = value
    actual, expected = convolve(invalid, weight, bias), convolve(clean, weight, bias)
    assert not actual[0, :, 8:11, 8:11].isfinite().any()
    actual[:, :, 8:12, 8:12] = expected[:, :, 8:12, 8:12]
    assert actual.equal(expected)


def test_relu_keeps_nan():
    weight, _ = layer(3, 5)
    assert convolve(torch.full((1, 3, 4, 4), float("nan")), weight, relu=True).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype):
    x, (weight, bias) = maps(1, 8, 9, 9), layer(8, 8)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    actual = convolve(x, weight, bias)
    assert actual.dtype == dtype
    assert actual.equal(convolve(x.float(), weight.float(), bias.float()).to(dtype))


def test_autocast_computes_in_float32():
    x, (weight, bias) = maps(1, 8, 9, 9), layer(8, 8)
    packed = ops_cuda.pack_conv3x3(weight)
    with torch.autocast("cpu", torch.bfloat16):
        actual = torch.ops.ops_cuda.conv3x3_relu(x.bfloat16(), packed, bias, 8, True, 64)
    assert actual.dtype == torch.float32


def test_invalid_arguments_are_named():
    x, (weight, bias) = maps(1, 8, 5, 5), layer(8, 8)
    packed = ops_cuda.pack_conv3x3(weight)
    with pytest.raises(ValueError, match=r"weight must be \(O, C, 3, 3\).*got \(8, 8, 1, 1\)"):
        ops_cuda.pack_conv3x3(weight[:, :, :1, :1])
    with pytest.raises(ValueError, match="weight must be floating point"):
        ops_cuda.pack_conv3x3(weight.long())
    with pytest.raises(ValueError, match="x must be"):
        ops_cuda.conv3x3_relu(x[0], packed, bias, 8)
    with pytest.raises(ValueError, match="x must be"):
        ops_cuda.conv3x3_relu(x[:, :, :0], packed, bias, 8)
    with pytest.raises(ValueError, match="from pack_conv3x3"):
        ops_cuda.conv3x3_relu(x, weight, bias, 8)
    with pytest.raises(ValueError, match="packed must be"):
        ops_cuda.conv3x3_relu(x[:, :7], packed, bias, 8)
    with pytest.raises(ValueError, match="out_channels must be positive"):
        ops_cuda.conv3x3_relu(x, packed, bias, 0)
    with pytest.raises(ValueError, match=r"bias must be \(8,\)"):
        ops_cuda.conv3x3_relu(x, packed, bias[:7], 8)
    with pytest.raises(ValueError, match="different devices"):
        ops_cuda.conv3x3_relu(x, packed.to("meta"), bias, 8)
    with pytest.raises(ValueError, match="no gradient"):
        ops_cuda.conv3x3_relu(x.requires_grad_(), packed, bias, 8)
