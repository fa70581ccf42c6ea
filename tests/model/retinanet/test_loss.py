import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from model.boxes.coding import BoxCoder
from model.config import RetinaNetConfig
from model.layers.focal_loss import focal_loss
from model.retinanet.loss import generalized_iou_loss, retinanet_losses
from model.structures import join_targets


def test_the_giou_loss_matches_torchvision():
    generator = torch.Generator().manual_seed(4)
    start = 50 * torch.rand(2, 40, 2, generator=generator)
    boxes, others = torch.cat((start, start + 30 * torch.rand(2, 40, 2, generator=generator)), 2)
    others[0] = boxes[0]
    loss = generalized_iou_loss(boxes, others)
    torch.testing.assert_close(loss, generalized_box_iou_loss(boxes, others))
    assert loss[0] == pytest.approx(0, abs=1e-6)
    assert loss.max() > 1


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_only_positive_anchors_have_a_box_loss_and_ignored_ones_have_no_loss(box_targets, box_loss):
    targets = join_targets([box_targets([[0, 0, 10, 10]], [2])], torch.device("cpu"))
    # IoU 1, 0.45 and 0: positive, ignored (between 0.4 and 0.5), background.
    anchors = [
        torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5]]),
        torch.tensor([[30.0, 30, 40, 40]]),
    ]
    logits = [torch.randn(1, 2, 3), torch.randn(1, 1, 3)]
    deltas = [torch.zeros(1, 2, 4), torch.ones(1, 1, 4)]
    settings = RetinaNetConfig(box_loss=box_loss)
    losses = retinanet_losses(logits, deltas, anchors, targets, settings, BoxCoder())
    expected = focal_loss(torch.cat(logits, 1), torch.tensor([[2, -1, 0]]), 0.25, 2.0)
    torch.testing.assert_close(losses["retinanet_class"].total, expected)
    assert losses["retinanet_box"].total == pytest.approx(0, abs=1e-6)
    assert losses["retinanet_class"].count == losses["retinanet_box"].count == 1
