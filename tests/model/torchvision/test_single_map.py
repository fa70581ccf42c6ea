"""Without a pyramid, torchvision's Faster R-CNN and ours compute the same on a single map."""

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from model import ModelConfig, build_detector
from model.config import TORCHVISION
from model.structures import Targets
from tests.model.torchvision.peers import (
    ALL_SAMPLES,
    DETECTIONS,
    LONG_SIDE,
    SHORT_SIDE,
    make_batch,
    resized_images,
    torchvision_input,
)
from tests.model.training import total_loss

CLASSES, SIZES, RATIOS = 6, (24.0, 40.0, 64.0, 100.0), (0.5, 1.0, 2.0)
# Our names of layers, and torchvision's.
LAYERS = {
    "rpn.head.convs.0": "rpn.head.conv.0.0",
    "rpn.head.objectness": "rpn.head.cls_logits",
    "rpn.head.deltas": "rpn.head.bbox_pred",
    "roi_heads.box.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box.class_logits": "roi_heads.box_predictor.cls_score",
    "roi_heads.box.box_deltas": "roi_heads.box_predictor.bbox_pred",
}


def _build_reference():
    torch.manual_seed(1)
    resnet = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    backbone = nn.Sequential(*list(resnet.children())[:-2])
    backbone.out_channels = 512
    reference = FasterRCNN(
        backbone,
        CLASSES + 1,
        min_size=SHORT_SIDE,
        max_size=LONG_SIDE,
        rpn_anchor_generator=AnchorGenerator((SIZES,), (RATIOS,)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=ALL_SAMPLES,
        box_batch_size_per_image=ALL_SAMPLES,
        box_detections_per_img=DETECTIONS,
    )
    reference.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    with torch.no_grad():
        reference.rpn.head.cls_logits.weight *= 5
        reference.rpn.head.bbox_pred.weight *= 3
        scores = reference.roi_heads.box_predictor.cls_score.weight
        scores *= 12
        scores -= scores.mean(dim=1, keepdim=True)
    return reference


def _build_peer(reference):
    """Return our detector with the weights and settings of the reference."""
    proposals = {"pre_nms_train": 300, "pre_nms_test": 300}
    proposals |= {"post_nms_train": 100, "post_nms_test": 100, "samples_per_image": ALL_SAMPLES}
    config = ModelConfig.model_validate(
        {
            "num_classes": CLASSES,
            "conventions": TORCHVISION.model_copy(update={"norm_epsilon": 1e-5}),
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"depth": 18, "features": "c5", "frozen_stages": 0},
            "rpn": {"anchor_sizes": SIZES, "anchor_ratios": RATIOS} | proposals,
            "box": {"samples_per_image": ALL_SAMPLES, "detections_per_image": DETECTIONS},
            "mask": None,
        }
    )
    detector = build_detector(config)
    state = reference.state_dict()
    stages = {"0": "conv1", "1": "bn1"} | {str(i): f"layer{i - 3}" for i in range(4, 8)}
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("backbone."):
            _, stage, rest = name.split(".", 2)
            renamed[f"backbone.{stages[stage]}.{rest}"] = tensor
    for name, other in LAYERS.items():
        for kind in ("weight", "bias"):
            renamed[f"{name}.{kind}"] = state[f"{other}.{kind}"]
    detector.load_state_dict(renamed)
    return detector


def test_detections_are_equal():
    images, reference = resized_images(), _build_reference().eval()
    detector = _build_peer(reference).eval()
    with torch.inference_mode():
        expected = reference(torchvision_input(images))
        results = detector(make_batch(images))
    assert sum(len(result) for result in results) >= 20
    for result, detections in zip(results, expected, strict=True):
        assert result.labels.tolist() == detections["labels"].tolist()
        torch.testing.assert_close(result.boxes, detections["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(result.scores, detections["scores"], atol=1e-4, rtol=0)


def test_losses_and_gradients_are_equal():
    images, reference = resized_images(), _build_reference().train()
    detector = _build_peer(reference).train()
    boxes = torch.tensor([[10.0, 12, 80, 90], [60, 40, 150, 130]])
    labels = torch.tensor([1, 4])
    losses = reference(torchvision_input(images), [{"boxes": boxes, "labels": labels}] * 2)
    terms = detector(make_batch(images), [Targets(boxes, labels)] * 2)
    sum(losses.values()).backward()
    total_loss(terms).backward()
    for name, other in (
        ("rpn_objectness", "loss_objectness"),
        ("rpn_box", "loss_rpn_box_reg"),
        ("box_class", "loss_classifier"),
        ("box_regression", "loss_box_reg"),
    ):
        loss = terms[name].total / terms[name].count
        torch.testing.assert_close(loss, losses[other], rtol=1e-4, atol=0)
        assert loss > 0
    for name, other in LAYERS.items():
        expected = reference.get_parameter(f"{other}.weight").grad
        gradient = detector.get_parameter(f"{name}.weight").grad
        torch.testing.assert_close(gradient.norm(), expected.norm(), rtol=1e-3, atol=0)
