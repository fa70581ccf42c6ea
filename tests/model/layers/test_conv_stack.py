import pytest
import torch

from model.layers.conv_stack import init_kaiming_normal, make_conv_stack, run_conv_stack
from model.layers.norm import make_norms


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("norm", ["none", "group_norm"])
def test_a_stack_applies_convolution_norm_and_relu_in_order(norm, with_gradient):
    torch.manual_seed(0)
    convs = make_conv_stack(5, 8, 3, bias=norm == "none")
    norms = make_norms(norm, 8, 3)
    x = torch.randn(2, 5, 7, 9)
    with torch.set_grad_enabled(with_gradient):
        result = run_conv_stack(x, convs, norms)
    expected = x
    for index, conv in enumerate(convs):
        expected = conv(expected)
        expected = (norms[index](expected) if norms else expected).relu()
    assert result.shape == (2, 8, 7, 9)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_an_empty_stack_returns_its_input():
    x = torch.randn(2, 5, 7, 9)
    assert run_conv_stack(x, make_conv_stack(5, 8, 0)) is x


def test_a_stack_needs_one_norm_per_convolution():
    convs, norms = make_conv_stack(8, 8, 3), make_norms("group_norm", 8, 2)
    with pytest.raises(ValueError, match="shorter"):
        run_conv_stack(torch.randn(1, 8, 7, 7), convs, norms)


def test_kaiming_initialization_has_variance_2_over_fan_out_and_zero_bias():
    convs = make_conv_stack(16, 64, 2)
    init_kaiming_normal(convs)
    for conv in convs:
        # At least 9216 draws: the standard deviation varies by less than 1%.
        assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
        assert not conv.bias.any()
