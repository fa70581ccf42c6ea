import pytest
import torch

from model.boxes.coding import BoxCoder
from model.config import RpnConfig
from model.rpn.loss import rpn_losses
from model.structures import join_targets

CODER = BoxCoder()
# IoU with the object 0, 0, 10, 10: 1, 0.8, 0.5 (ignored) and 0.
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [30, 30, 40, 40]])
POSITIVE, NEGATIVE = {0, 1}, {3}


@pytest.fixture
def targets(box_targets):
    return join_targets([box_targets([[0, 0, 10, 10]], [2])], torch.device("cpu"))


def compute_losses(targets, logits, deltas, eligible=None):
    """Return the losses of predictions for the anchors, and the anchors that were sampled."""
    sampled = []

    def predict(indices):
        sampled.append(indices)
        return logits[indices], deltas[indices]

    losses = rpn_losses(
        predict, ANCHORS, targets, [0], RpnConfig(), CODER, 1 / 9, eligible=eligible
    )
    [indices] = sampled
    count = int(losses["rpn_box"].count)
    return losses, set(indices[0, :count].tolist())


def test_positive_and_negative_anchors_are_sampled_and_others_are_not(targets):
    losses, sampled = compute_losses(targets, torch.zeros(4), torch.zeros(4, 4))
    assert sampled == POSITIVE | NEGATIVE
    assert losses["rpn_objectness"].count == losses["rpn_box"].count == 3
    expected = 3 * torch.tensor(2.0).log()
    torch.testing.assert_close(losses["rpn_objectness"].total, expected)


def test_ineligible_anchors_are_not_sampled(targets):
    eligible = torch.tensor([[True, False, True, True]])
    _, sampled = compute_losses(targets, torch.zeros(4), torch.zeros(4, 4), eligible)
    assert sampled == {0, 3}


def test_perfect_predictions_have_no_loss(targets):
    logits = torch.tensor([200.0, 200, 0, -200])
    deltas = CODER.encode(targets.boxes[:1].expand(4, 4), ANCHORS)
    losses, _ = compute_losses(targets, logits, deltas)
    assert losses["rpn_objectness"].total == losses["rpn_box"].total == 0


def test_only_positive_anchors_have_a_box_loss(targets):
    deltas = CODER.encode(targets.boxes[:1].expand(4, 4), ANCHORS)
    deltas[2:] += 1
    losses, _ = compute_losses(targets, torch.zeros(4), deltas)
    assert losses["rpn_box"].total == 0
    deltas[0] += 1
    losses, _ = compute_losses(targets, torch.zeros(4), deltas)
    # Four deltas off by 1, where the smooth L1 loss is 1 - beta / 2.
    assert losses["rpn_box"].total.item() == pytest.approx(4 * (1 - 1 / 18), rel=1e-5)
