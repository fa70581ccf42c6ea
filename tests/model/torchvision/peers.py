"""A detector of torchvision and ours with the same weights, and pictures for both.

Shapes: H W of one picture.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from model import Detector, load_detector
from model.config import ModelConfig
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize

SHORT_SIDE, LONG_SIDE = 160, 256
DETECTIONS = 40
# Everything is sampled, so that neither library chooses at random.
EVERYTHING = 1_000_000


def two_originals() -> list[Tensor]:
    """Two (H, W, 3) uint8 pictures, larger than the networks see them."""
    folder = os.environ.get("COCO_TINY")
    if folder is None:
        return [_synthetic(seed, 200, 260 if seed else 150) for seed in range(2)]
    return [_decode(Path(folder), number) for number in range(2)]


def two_pictures() -> list[Tensor]:
    """The same, resized to what both transforms leave alone."""
    return [
        resize_image(p, resized_size(ImageSize(*p.shape[:2]), SHORT_SIDE, LONG_SIDE))
        for p in two_originals()
    ]


def _decode(folder: Path, number: int) -> Tensor:
    split = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    path = folder / "val2017" / split["images"][number]["file_name"]
    return torch.from_numpy(np.array(Image.open(path).convert("RGB")))


def _synthetic(seed: int, height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def build_theirs(
    kind: Callable[..., FasterRCNN], classes: int, body: str = "resnet50", **options: object
) -> FasterRCNN:
    """torchvision's FPN with random weights, spread so that scores and boxes differ.

    Args:
        kind: a class of detectors, or a function that builds one of its own kind (v2).
        classes: without the background.
        body: of a class of detectors, the backbone's.
        options: of the detector.
    """
    torch.manual_seed(1)
    if isinstance(kind, type):
        options["backbone"] = resnet_fpn_backbone(
            backbone_name=body, weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
        )
    else:
        options |= {"weights": None, "weights_backbone": None}
    model = kind(
        num_classes=classes + 1,
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
        **options,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0
            if isinstance(module, (FrozenBatchNorm2d, torch.nn.BatchNorm2d)):
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
        *((conv[0].weight, 2.0) for conv in head.conv),
        (head.cls_logits.weight, 20.0),
        (head.bbox_pred.weight, 5.0),
        # Averages of convolutions vary less from one proposal to the next.
        (predictor.cls_score.weight, 96.0 if len(head.conv) > 1 else 24.0),
    ):
        weight *= scale
    # Hidden units are positive: without their common part, proposals differ in their class.
    predictor.cls_score.weight -= predictor.cls_score.weight.mean(dim=1, keepdim=True)
    bias = predictor.cls_score.bias
    bias.copy_(0.3 * torch.randn(bias.shape, generator=generator))


def build_ours(theirs: FasterRCNN, folder: Path) -> Detector:
    """Ours with their weights and settings."""
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    config = ModelConfig.model_validate(
        {
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"frozen_stages": 0 if trains_norms(theirs) else 2},
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


def trains_norms(model: torch.nn.Module) -> bool:
    """Whether some norms are not frozen."""
    return any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def keep_statistics(model: torch.nn.Module) -> None:
    """Let norms use the statistics that they have, while the rest of the model trains."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def gradient_norm(model: torch.nn.Module, prefix: str) -> Tensor:
    """The norm over all parameters whose names begin so."""
    norms = [
        parameter.grad.norm()
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and parameter.grad is not None
    ]
    return torch.stack(norms).norm() if norms else torch.zeros(())
