"""Without a pyramid, on one map: torchvision's detector and ours find and lose the same."""

import torch
import torchvision
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from model import ModelConfig, build_detector
from model.config import TORCHVISION
from model.preprocess import pad_batch
from model.structures import ImageSize, Targets
from tests.model.torchvision.peers import (
    DETECTIONS,
    EVERYTHING,
    LONG_SIDE,
    SHORT_SIDE,
    two_pictures,
)

CLASSES, SIZES, RATIOS = 6, (24.0, 40.0, 64.0, 100.0), (0.5, 1.0, 2.0)
OURS = {
    "rpn.head.convs.0": "rpn.head.conv.0.0",
    "rpn.head.objectness": "rpn.head.cls_logits",
    "rpn.head.deltas": "rpn.head.bbox_pred",
    "roi_heads.box.fc1": "roi_heads.box_head.fc6",
    "roi_heads.box.fc2": "roi_heads.box_head.fc7",
    "roi_heads.box.class_logits": "roi_heads.box_predictor.cls_score",
    "roi_heads.box.box_deltas": "roi_heads.box_predictor.bbox_pred",
}


def build_theirs():
    torch.manual_seed(1)
    resnet = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    backbone = nn.Sequential(*list(resnet.children())[:-2])
    backbone.out_channels = 512
    theirs = FasterRCNN(
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
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        box_detections_per_img=DETECTIONS,
    )
    theirs.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    with torch.no_grad():
        theirs.rpn.head.cls_logits.weight *= 5
        theirs.rpn.head.bbox_pred.weight *= 3
        scores = theirs.roi_heads.box_predictor.cls_score.weight
        scores *= 12
        scores -= scores.mean(dim=1, keepdim=True)
    return theirs


def build_ours(theirs):
    proposals = {"pre_nms_train": 300, "pre_nms_test": 300}
    proposals |= {"post_nms_train": 100, "post_nms_test": 100, "samples_per_image": EVERYTHING}
    config = ModelConfig.model_validate(
        {
            "num_classes": CLASSES,
            "conventions": TORCHVISION.model_copy(update={"norm_epsilon": 1e-5}),
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"depth": 18, "features": "c5", "frozen_stages": 0},
            "rpn": {"anchor_sizes": SIZES, "anchor_ratios": RATIOS} | proposals,
            "box": {"samples_per_image": EVERYTHING, "detections_per_image": DETECTIONS},
            "mask": None,
        }
    )
    ours = build_detector(config)
    state = theirs.state_dict()
    parts = {"0": "conv1", "1": "bn1"} | {str(i): f"layer{i - 3}" for i in range(4, 8)}
    backbone = {n: t for n, t in state.items() if n.startswith("backbone.")}
    renamed = {}
    for name, tensor in backbone.items():
        _, part, rest = name.split(".", 2)
        renamed[f"backbone.{parts[part]}.{rest}"] = tensor
    for name, other in OURS.items():
        for kind in ("weight", "bias"):
            renamed[f"{name}.{kind}"] = state[f"{other}.{kind}"]
    ours.load_state_dict(renamed)
    return ours


def test_detections_losses_and_gradients_on_one_map_of_many_anchors():
    pictures, theirs = two_pictures(), build_theirs().eval()
    ours = build_ours(theirs).eval()
    sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
    inputs = [picture.permute(2, 0, 1) / 255 for picture in pictures]
    with torch.inference_mode():
        expected, found = theirs(inputs), ours(pad_batch(pictures, sizes))
    assert sum(len(one) for one in found) >= 20
    for one, reference in zip(found, expected, strict=True):
        assert one.labels.tolist() == reference["labels"].tolist()
        torch.testing.assert_close(one.boxes, reference["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(one.scores, reference["scores"], atol=1e-4, rtol=0)

    boxes = torch.tensor([[10.0, 12, 80, 90], [60, 40, 150, 130]])
    labels = torch.tensor([1, 4])
    losses = theirs.train()(inputs, [{"boxes": boxes, "labels": labels} for _ in inputs])
    batch = pad_batch(pictures, sizes, sampling_seeds=range(2))
    terms = ours.train()(batch, [Targets(boxes, labels) for _ in inputs])
    sum(losses.values()).backward()
    sum(term.total / term.count for term in terms.values()).backward()
    for name, other in (
        ("rpn_objectness", "loss_objectness"),
        ("rpn_box", "loss_rpn_box_reg"),
        ("box_class", "loss_classifier"),
        ("box_regression", "loss_box_reg"),
    ):
        loss = terms[name].total / terms[name].count
        torch.testing.assert_close(loss, losses[other], rtol=1e-4, atol=0)
        assert loss > 0
    for name, other in OURS.items():
        gradient = theirs.get_parameter(f"{other}.weight").grad
        mine = ours.get_parameter(f"{name}.weight").grad
        torch.testing.assert_close(mine.norm(), gradient.norm(), rtol=1e-3, atol=0)
