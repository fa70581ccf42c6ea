"""A torchvision detector and ours with the same weights, and images for both."""

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

from model import Detector
from model.config import ModelConfig
from model.preprocess import pad_batch, resize_image, resized_size
from model.structures import ImageBatch, ImageSize
from model.weights import load_network

SHORT_SIDE, LONG_SIDE = 160, 256
DETECTIONS = 40
# More samples than candidates: everything is sampled, so neither library samples at random.
ALL_SAMPLES = 1_000_000


def original_images() -> list[Tensor]:
    """Return two images (H, W, 3) uint8, larger than the networks' input.

    They come from COCO if ``COCO_TINY`` names its folder.
    """
    folder = os.environ.get("COCO_TINY")
    if folder is None:
        return [_synthetic_image(seed, 200, 260 if seed else 150) for seed in range(2)]
    return [_read_image(Path(folder), index) for index in range(2)]


def resized_images(short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> list[Tensor]:
    """Return the images in a size that neither library resizes."""
    return [
        resize_image(image, resized_size(ImageSize(*image.shape[:2]), short_side, long_side))
        for image in original_images()
    ]


def make_batch(images: list[Tensor]) -> ImageBatch:
    """Return the images padded to a common canvas, as torchvision does, with sampling seeds."""
    sizes = [ImageSize(*image.shape[:2]) for image in images]
    return pad_batch(images, sizes, sampling_seeds=range(len(images)))


def torchvision_input(images: list[Tensor]) -> list[Tensor]:
    """Return the images as torchvision takes them, (3, H, W) float32 in [0, 1]."""
    return [image.permute(2, 0, 1) / 255 for image in images]


def _read_image(folder: Path, index: int) -> Tensor:
    split = json.loads((folder / "annotations" / "instances_val2017.json").read_text())
    path = folder / "val2017" / split["images"][index]["file_name"]
    return torch.from_numpy(np.array(Image.open(path).convert("RGB")))


def _synthetic_image(seed: int, height: int, width: int) -> Tensor:
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def build_reference(
    kind: Callable[..., FasterRCNN], classes: int, body: str = "resnet50", **options: object
) -> FasterRCNN:
    """Build a torchvision detector with random weights, spread so that scores and boxes vary.

    Args:
        kind: a detector class, or a function that builds a detector (v2).
        classes: without the background.
        body: backbone, if ``kind`` is a class.
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
        rpn_batch_size_per_image=ALL_SAMPLES,
        box_batch_size_per_image=ALL_SAMPLES,
        box_score_thresh=0.05,
        box_detections_per_img=DETECTIONS,
        **options,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        spread_norms(model, generator, last_norm="bn3")
        _spread_predictions(model, generator)
    return model


def spread_norms(model: torch.nn.Module, generator: torch.Generator, last_norm: str) -> None:
    """Give norms random statistics.

    Args:
        model: a torchvision model.
        generator: of the statistics.
        last_norm: name of the last norm of each block. Its scale is small, so that activations do
            not grow with depth.
    """
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
        if isinstance(module, FrozenBatchNorm2d | torch.nn.BatchNorm2d):
            channels = len(module.weight)
            module.running_mean += 0.1 * torch.randn(channels, generator=generator)
            module.running_var *= 0.5 + torch.rand(channels, generator=generator)
            module.weight.fill_(0.3 if name.endswith(last_norm) else 1.0)


def _spread_predictions(model: FasterRCNN, generator: torch.Generator) -> None:
    head, predictor = model.rpn.head, model.roi_heads.box_predictor
    for weight, scale in (
        *((conv[0].weight, 2.0) for conv in head.conv),
        (head.cls_logits.weight, 20.0),
        (head.bbox_pred.weight, 5.0),
        # Features after convolutions vary less from proposal to proposal.
        (predictor.cls_score.weight, 96.0 if len(head.conv) > 1 else 24.0),
    ):
        weight *= scale
    # Hidden units are positive: without their common part, proposals differ in their class.
    predictor.cls_score.weight -= predictor.cls_score.weight.mean(dim=1, keepdim=True)
    bias = predictor.cls_score.bias
    bias.copy_(0.3 * torch.randn(bias.shape, generator=generator))


def load_peer(reference: FasterRCNN, folder: Path) -> Detector:
    """Return our detector with the weights and settings of a torchvision detector."""
    torch.save(reference.state_dict(), folder / "reference.pth")
    config = ModelConfig.model_validate(
        {
            "input": {"short_side": SHORT_SIDE, "long_side": LONG_SIDE},
            "backbone": {"frozen_stages": 0 if has_batch_norm(reference) else 2},
            "rpn": {
                "pre_nms_train": 200,
                "post_nms_train": 60,
                "pre_nms_test": 200,
                "post_nms_test": 60,
                "samples_per_image": ALL_SAMPLES,
            },
            "box": {"samples_per_image": ALL_SAMPLES, "detections_per_image": DETECTIONS},
        }
    )
    return load_network(folder / "reference.pth", config)


def has_batch_norm(model: torch.nn.Module) -> bool:
    """Return whether some norms are not frozen."""
    return any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def fix_norm_statistics(model: torch.nn.Module) -> None:
    """Make batch norms use their stored statistics while the rest of the model trains."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def gradient_norm(model: torch.nn.Module, prefix: str) -> Tensor:
    """Return the gradient norm of all parameters whose names start with ``prefix``."""
    norms = [
        parameter.grad.norm()
        for name, parameter in model.named_parameters()
        if name.startswith(prefix) and parameter.grad is not None
    ]
    return torch.stack(norms).norm() if norms else torch.zeros(())
