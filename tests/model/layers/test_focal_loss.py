import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.layers import focal_loss as focal_loss_module
from model.layers.focal_loss import focal_loss


def paper_focal_loss(logits, labels, alpha, gamma):
    """Return equation 5 of the paper, with one-hot targets."""
    classes = torch.arange(1, logits.shape[2] + 1)
    is_positive = labels[..., None] == classes
    p = logits.sigmoid()
    loss = torch.where(
        is_positive, -alpha * (1 - p) ** gamma * p.log(), -(1 - alpha) * p**gamma * (1 - p).log()
    )
    return loss[labels >= 0].sum()


def random_anchors(seed, images, anchors, classes, spread=3.0):
    """Return logits and labels; some labels are 0 (background) and some -1 (ignored)."""
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
def test_loss_and_gradient_equal_the_equation_of_the_paper(
    seed, images, anchors, classes, alpha, gamma
):
    logits, labels = random_anchors(seed, images, anchors, classes)
    results = []
    for loss in (focal_loss, paper_focal_loss):
        x = logits.clone().requires_grad_()
        total = loss(x, labels, alpha, gamma)
        (3 * total).backward()
        results.append((total.detach(), x.grad))
    # float64: the remaining error is the cancellation in log(1 - p) of the paper's form.
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 60, 1000])
def test_images_in_chunks_give_the_same_loss_and_gradient(monkeypatch, chunk):
    logits, labels = random_anchors(6, images=5, anchors=6, classes=4)
    expected, whole = focal_loss(logits, labels, 0.25, 2.0), logits.clone().requires_grad_()
    focal_loss(whole, labels, 0.25, 2.0).backward()
    monkeypatch.setattr(focal_loss_module, "CHUNK", chunk)
    parts = logits.clone().requires_grad_()
    total = focal_loss(parts, labels, 0.25, 2.0)
    total.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_the_gradient_equals_finite_differences():
    logits, labels = random_anchors(5, 2, 6, 4)
    torch.autograd.gradcheck(lambda x: focal_loss(x, labels, 0.25, 2.0), logits.requires_grad_())


def test_class_weights_multiply_the_loss_of_the_positive_class():
    logits, labels = random_anchors(5, images=2, anchors=12, classes=3)
    weights = torch.tensor([1.0, 4.0, 1.0, 0.5], dtype=logits.dtype)
    x = logits.clone().requires_grad_()
    total = focal_loss(x, labels, 0.25, 2.0, weights)
    total.backward()
    y = logits.clone().requires_grad_()
    expected = focal_loss(y, labels, 0.25, 2.0)
    for label, weight in ((1, 4.0), (3, 0.5)):
        p = y[..., label - 1][labels == label].sigmoid()
        assert len(p) > 0
        expected = expected + (weight - 1) * (-0.25 * (1 - p) ** 2 * p.log()).sum()
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(x.grad, y.grad)


def test_ignored_anchors_have_no_loss_and_no_gradient():
    logits, labels = random_anchors(7, 2, 8, 3)
    logits.requires_grad_()
    ignored = labels < 0
    assert ignored.any()
    total = focal_loss(logits, labels, 0.25, 2.0)
    total.backward()
    assert not logits.grad[ignored].any()
    other_logits = torch.where(ignored[..., None], 50.0, logits.detach())
    assert focal_loss(other_logits, labels, 0.25, 2.0) == total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_have_finite_losses_and_gradients_in_every_dtype(dtype):
    values = torch.tensor([-1e4, -90.0, 0.0, 90.0, 1e4])
    logits = values.expand(1, 3, 5).to(dtype).requires_grad_()
    labels = torch.tensor([[1, 5, 0]])
    total = focal_loss(logits, labels, 0.25, 2.0)
    total.backward()
    assert total.dtype == torch.float32
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()
    # A wrong logit x has a loss of |x|; a logit of 0 has log 2 at p = 1/2.
    x = values.to(dtype).float()
    wrong = 0.75 * (x[3] + x[4])
    middle = 0.75 * 0.25 * torch.log(torch.tensor(2.0))
    expected = 3 * (wrong + middle) - 0.75 * x[4] - 0.25 * x[0]
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)


def test_only_the_logits_are_saved_for_the_backward_pass():
    logits, labels = random_anchors(9, 2, 50, 20)
    logits.requires_grad_()
    saved = []

    def record(tensor):
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        focal_loss(logits, labels, 0.25, 2.0)
    large = [tensor for tensor in saved if tensor.numel() >= logits.numel()]
    assert [tensor.data_ptr() for tensor in large] == [logits.data_ptr()]
