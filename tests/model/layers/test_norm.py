import pytest
import torch
from torch import nn

from model.layers.norm import (
    FrozenBatchNorm,
    convolve_and_normalize,
    is_fixed,
    make_norm,
    make_norms,
)


def test_a_folded_norm_has_the_gradients_of_a_separate_one():
    generator = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(8, 16, 3, padding=1, bias=False), FrozenBatchNorm(16, 1e-5)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    norm.running_mean.normal_(generator=generator)
    x = torch.randn(2, 8, 9, 9, generator=generator, requires_grad=True)
    upstream = torch.randn(2, 16, 9, 9, generator=generator)
    inputs = (x, conv.weight)
    folded = convolve_and_normalize(x, conv, norm)
    separate = norm(conv(x))
    torch.testing.assert_close(folded, separate, rtol=1e-4, atol=1e-5)
    for result, expected in zip(
        torch.autograd.grad((folded * upstream).sum(), inputs),
        torch.autograd.grad((separate * upstream).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_a_frozen_batch_norm_equals_a_batch_norm_in_eval_mode_and_loads_its_state():
    batch_norm = nn.BatchNorm2d(6, eps=1e-3)
    batch_norm(torch.randn(4, 6, 5, 5))
    frozen = FrozenBatchNorm(6, eps=1e-3)
    frozen.load_state_dict(
        {name: t for name, t in batch_norm.state_dict().items() if name != "num_batches_tracked"}
    )
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(frozen(x), batch_norm.eval()(x))


def test_only_norms_that_ignore_their_input_are_fixed():
    assert is_fixed(make_norm("frozen_bn", 8).train())
    assert is_fixed(make_norm("batch_norm", 8).eval())
    assert not is_fixed(make_norm("batch_norm", 8).train())
    assert not is_fixed(make_norm("group_norm", 8).eval())


def test_group_norm_has_32_groups_or_as_many_as_divide_the_channels():
    assert [make_norm("group_norm", channels).num_groups for channels in (256, 48, 12)] == [
        32,
        16,
        4,
    ]


def test_the_setting_none_makes_no_norms_and_unknown_settings_are_rejected():
    assert len(make_norms("none", 8, 3)) == 0
    assert len(make_norms("group_norm", 8, 3)) == 3
    with pytest.raises(ValueError, match=r"norm must be .* got 'layer_norm'"):
        make_norm("layer_norm", 8)


@pytest.mark.parametrize("training", [True, False])
def test_a_synchronized_batch_norm_of_one_process_is_a_batch_norm(training):
    synced, plain = make_norm("sync_batch_norm", 6), make_norm("batch_norm", 6)
    plain.load_state_dict(synced.state_dict())
    x = torch.randn(4, 6, 5, 5)
    for _ in range(2):
        results = [norm.train(training)(x) for norm in (synced, plain)]
        assert torch.equal(*results)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(synced.state_dict()[name], tensor), name
    assert is_fixed(synced) is not training


def test_a_synchronized_batch_norm_folds_like_a_batch_norm():
    conv, x = nn.Conv2d(3, 6, 3), torch.randn(2, 3, 9, 9)
    synced = make_norm("sync_batch_norm", 6)
    synced(conv(x))
    synced.eval()
    folded = convolve_and_normalize(x, conv, synced)
    torch.testing.assert_close(folded, synced(conv(x)), rtol=1e-4, atol=1e-5)


def test_a_synchronized_batch_norm_is_torchs_where_torch_supports_it(monkeypatch):
    """Without a process group of GPUs, only the choice between the two can be tested."""
    chosen = []
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", lambda norm, x: chosen.append(norm) or x)
    norm = make_norm("sync_batch_norm", 3)
    norm(torch.ones(1, 3, 2, 2, device="meta"))
    assert chosen == [norm]
    norm(torch.rand(2, 3, 2, 2))
    assert chosen == [norm]
