"""The same weights and the same picture: torchvision's detectors and ours say the same."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from model import load_detector
from model.config import ModelConfig
from model.preprocess import pad_batch, resize_image, resized_size
from model.structures import BitmapMasks, ImageSize, Targets

SHORT_SIDE, LONG_SIDE = 160, 256
CLASSES, DETECTIONS = 12, 40
# Everything is sampled, so that neither library chooses at random.
EVERYTHING = 1_000_000


@pytest.fixture(scope="module")
def pictures() -> list[Tensor]:
    """Two (H, W, 3) uint8 pictures, resized to what both transforms leave alone."""
    folder = os.environ.get("COCO_TINY")
    if folder is None:
        originals = [_synthetic(seed, 200, 260 if seed else 150) for seed in range(2)]
    else:
        originals = [_decode(Path(folder), number) for number in range(2)]
    return [
        resize_image(p, resized_size(ImageSize(*p.shape[:2]), SHORT_SIDE, LONG_SIDE))
        for p in originals
    ]


def _decode(folder: Path, number: int) -> Tensor:
    split = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    path = folder / "val2017" / split["images"][number]["file_name"]
    return torch.from_numpy(np.array(Image.open(path).convert("RGB")))


def _synthetic(seed: int, height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def _theirs(with_masks: bool) -> FasterRCNN:
    """torchvision's R50-FPN with random weights, spread so that scores and boxes differ."""
    torch.manual_seed(1)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    kind = MaskRCNN if with_masks else FasterRCNN
    model = kind(
        backbone,
        num_classes=CLASSES + 1,
        min_size=SHORT_SIDE,
        max_size=LONG_SIDE,
        rpn_pre_nms_top_n_train=200,
        rpn_post_nms_top_n_train=60,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_test=60,
        rpn_batch_size_per_image=EVERYTHING,
        box_batch_size_per_image=EVERYTHING,
        box_score_thresh=0.05,
        box_detections_per_img=DETECTIONS,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0
                channels = len(module.weight)
                module.running_mean += 0.1 * torch.randn(channels, generator=generator)
                module.running_var *= 0.5 + torch.rand(channels, generator=generator)
                # The last norm of a block small, so that depth does not blow activations up.
                module.weight.fill_(0.3 if name.endswith("bn3") else 1.0)
        _spread(model, generator)
    return model


def _spread(model: FasterRCNN, generator: torch.Generator) -> None:
    head, predictor = model.rpn.head, model.roi_heads.box_predictor
    for weight, scale in (
        (head.conv[0][0].weight, 2.0),
        (head.cls_logits.weight, 20.0),
        (head.bbox_pred.weight, 5.0),
        (predictor.cls_score.weight, 24.0),
    ):
        weight *= scale
    # Hidden units are positive: without their common part, proposals differ in their class.
    predictor.cls_score.weight -= predictor.cls_score.weight.mean(dim=1, keepdim=True)
    predictor.cls_score.bias.copy_(0.3 * torch.randn(CLASSES + 1, generator=generator))


def _ours(theirs: FasterRCNN, folder: Path) -> torch.nn.Module:
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    config = ModelConfig.model_validate(
        {
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"frozen_stages": 2},
            "rpn": {
                "pre_nms_train": 200,
                "post_nms_train": 60,
                "pre_nms_test": 200,
                "post_nms_test": 60,
                "samples_per_image": EVERYTHING,
            },
            "box": {"samples_per_image": EVERYTHING, "detections_per_image": DETECTIONS},
        }
    )
    return load_detector(folder / "theirs.pth", config)


def _targets(pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    """Three ellipses per picture as full bitmaps, as torchvision wants them."""
    targets = []
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        boxes = torch.tensor(
            [
                [0.05, 0.10, 0.45, 0.60],
                [0.30, 0.35, 0.90, 0.95],
                [0.60, 0.05, 0.80, 0.25 + 0.1 * index],
            ]
        ) * torch.tensor([width, height, width, height])
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        centre, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        masks = (
            ((x - centre[:, 0, None, None]) / radius[:, 0, None, None]) ** 2
            + ((y - centre[:, 1, None, None]) / radius[:, 1, None, None]) ** 2
        ) <= 1
        targets.append(
            {"boxes": boxes, "labels": torch.tensor([1, 5, CLASSES]), "masks": masks.byte()}
        )
    return targets


@pytest.mark.parametrize("with_masks", [True, False], ids=["mask_rcnn", "faster_rcnn"])
def test_the_same_weights_give_the_same_detections(
    pictures: list[Tensor], tmp_path: Path, with_masks: bool
) -> None:
    theirs = _theirs(with_masks).eval()
    detector = _ours(theirs, tmp_path)
    with torch.inference_mode():
        expected = theirs([picture.permute(2, 0, 1) / 255 for picture in pictures])
        # torchvision pads the pictures to one canvas, so ours must too.
        sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
        found = detector(pad_batch(pictures, sizes))
    assert sum(len(one) for one in found) >= 20
    assert len(torch.cat([one.labels for one in found]).unique()) >= 3
    for one, reference in zip(found, expected, strict=True):
        assert one.labels.tolist() == reference["labels"].tolist()
        torch.testing.assert_close(one.boxes, reference["boxes"], atol=0.01, rtol=0)
        torch.testing.assert_close(one.scores, reference["scores"], atol=1e-4, rtol=0)
        if with_masks:
            wanted = (reference["masks"][:, 0] > 0.5).flatten(1)
            got = one.bitmaps().bool().flatten(1)
            shared, either = (wanted & got).sum(1), (wanted | got).sum(1)
            assert ((shared > 0.99 * either) | (either == 0)).all()


@pytest.mark.parametrize("with_masks", [True, False], ids=["mask_rcnn", "faster_rcnn"])
def test_the_same_weights_and_samples_give_the_same_losses_and_gradients(
    pictures: list[Tensor], tmp_path: Path, with_masks: bool
) -> None:
    theirs = _theirs(with_masks).train()
    detector = _ours(theirs, tmp_path).train()
    theirs.roi_heads.fg_bg_sampler.positive_fraction = 0.25
    objects = _targets(pictures)
    losses = theirs(
        [picture.permute(2, 0, 1) / 255 for picture in pictures], [dict(o) for o in objects]
    )
    sum(losses.values()).backward()
    sizes = [ImageSize(*picture.shape[:2]) for picture in pictures]
    terms = detector(
        pad_batch(pictures, sizes, sampling_seeds=range(len(pictures))),
        [Targets(o["boxes"], o["labels"], BitmapMasks(o["masks"])) for o in objects],
    )
    ours = {name: term.total / term.count for name, term in terms.items()}
    sum(ours.values()).backward()
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "box_class": "loss_classifier",
        "box_regression": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert ours.keys() == {name for name, other in names.items() if other in losses}
    for name, loss in ours.items():
        torch.testing.assert_close(loss, losses[names[name]], rtol=1e-4, atol=0)
        assert loss > 0
    for part, other in (
        ("backbone.", "backbone.body."),
        ("fpn.", "backbone.fpn."),
        ("rpn.", "rpn."),
        ("roi_heads.box.", "roi_heads.box_"),
        ("roi_heads.mask.", "roi_heads.mask_"),
    ):
        expected = _gradient_norm(theirs, other)
        torch.testing.assert_close(_gradient_norm(detector, part), expected, rtol=1e-3, atol=0)


def _gradient_norm(model: torch.nn.Module, prefix: str) -> Tensor:
    norms = [
        parameter.grad.norm()
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and parameter.grad is not None
    ]
    return torch.stack(norms).norm() if norms else torch.zeros(())
