import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers.focal_loss import focal_loss


def plain_focal_loss(logits, labels, alpha, gamma):
    """The paper's equation 5, of a matrix of targets."""
    classes = torch.arange(1, logits.shape[2] + 1)
    true = labels[..., None] == classes
    p = logits.sigmoid()
    loss = torch.where(
        true, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log()
    )
    return loss[labels >= 0].sum()


def scene(seed, images, anchors, classes, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (images, anchors, classes)
    logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    return logits, torch.randint(-1, classes + 1, shape[:2], generator=generator)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(0, 3),
    anchors=st.integers(0, 9),
    classes=st.integers(1, 5),
    alpha=st.sampled_from([0.25, 0.5, 1.0]),
    gamma=st.sampled_from([0.0, 0.5, 2.0, 5.0]),
)
def test_sum_and_gradient_are_those_of_the_paper_s_equation(
    seed, images, anchors, classes, alpha, gamma
):
    logits, labels = scene(seed, images, anchors, classes)
    gradients = []
    for loss in (focal_loss, plain_focal_loss):
        x = logits.clone().requires_grad_()
        total = loss(x, labels, alpha, gamma)
        (3 * total).backward()
        gradients.append((total.detach(), x.grad))
    # float64: what is left is the cancellation in log(1 - p) of the plain form
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)


def test_the_gradient_is_that_of_small_steps():
    logits, labels = scene(5, 2, 6, 4)
    torch.autograd.gradcheck(lambda x: focal_loss(x, labels, 0.25, 2.0), logits.requires_grad_())


def test_what_is_ignored_neither_counts_nor_learns():
    logits, labels = scene(7, 2, 8, 3)
    logits.requires_grad_()
    ignored = labels < 0
    assert ignored.any()
    total = focal_loss(logits, labels, 0.25, 2.0)
    total.backward()
    assert not logits.grad[ignored].any()
    other = torch.where(ignored[..., None], 50.0, logits.detach())
    assert focal_loss(other, labels, 0.25, 2.0) == total


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_sure_anchors_have_finite_losses_and_gradients_in_every_type(kind):
    values = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4])
    logits = values.expand(1, 3, 5).to(kind).requires_grad_()
    labels = torch.tensor([[1, 5, 0]])
    total = focal_loss(logits, labels, 0.25, 2.0)
    total.backward()
    assert total.dtype == torch.float32
    assert logits.grad.dtype == kind
    assert logits.grad.isfinite().all()
    # wrong by x loses x; the middle loses log 2 at p = 1/2
    lost = values.to(kind).float()
    wrong = 0.75 * (lost[3] + lost[4])
    middle = 0.75 * 0.25 * torch.log(torch.tensor(2.0))
    expected = 3 * (wrong + middle) - 0.75 * lost[4] - 0.25 * lost[0]
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)


def test_nothing_but_the_logits_is_kept_for_the_backward_pass():
    logits, labels = scene(9, 2, 50, 20)
    logits.requires_grad_()
    kept = []

    def remember(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        focal_loss(logits, labels, 0.25, 2.0)
    large = [tensor for tensor in kept if tensor.numel() >= logits.numel()]
    assert [tensor.data_ptr() for tensor in large] == [logits.data_ptr()]
