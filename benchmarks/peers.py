"""torchvision's detectors on R50-FPN and ours with the same weights, and pictures for both.

Needs torch and torchvision alone (and Pillow, to read pictures).
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from model import Detector, load_detector
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize, PolygonMasks, Targets

Picture = np.ndarray


MODELS = ("mask_rcnn", "faster_rcnn", "keypoint_rcnn", "retinanet")
_KEYPOINTS = 17


def build_peer(kind: str, short_side: int, long_side: int, device: torch.device) -> nn.Module:
    """The peer: torchvision's detector on R50-FPN as with COCO weights (v1).

    The weights are random, spread so that a picture shows some dozens of objects.

    Args:
        kind: one of ``MODELS``.
        short_side: a picture's, pixels.
        long_side: its limit, pixels.
        device: where it runs.
    """
    torch.manual_seed(0)
    sizes = {"min_size": short_side, "max_size": long_side}
    pyramid = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=3,
        **(pyramid if kind == "retinanet" else {}),
    )
    kinds = {
        "mask_rcnn": (MaskRCNN, 91),
        "faster_rcnn": (FasterRCNN, 91),
        "keypoint_rcnn": (KeypointRCNN, 2),
        "retinanet": (RetinaNet, 91),
    }
    build, classes = kinds[kind]
    peer: nn.Module = build(backbone, num_classes=classes, **sizes)
    with torch.no_grad():
        for name, module in peer.named_modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0
                module.weight.fill_(0.3 if name.endswith("bn3") else 1.0)
        _spread(peer)
    return peer.to(device)


def _spread(peer: nn.Module) -> None:
    if isinstance(peer, RetinaNet):
        for module in peer.head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 3  # towers keep the size of what they read
        peer.head.classification_head.cls_logits.weight *= 1.2
        return
    peer.rpn.head.cls_logits.weight *= 20
    peer.rpn.head.bbox_pred.weight *= 5
    peer.roi_heads.box_predictor.cls_score.weight *= 18


def build_ours(peer: nn.Module, short_side: int, long_side: int, device: torch.device) -> Detector:
    """Our detector with the peer's weights and settings."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.pth"
        torch.save({name: tensor.cpu() for name, tensor in peer.state_dict().items()}, path)
        return load_detector(path, None, device, short_side=short_side, long_side=long_side)


def read_pictures(folder: Path | None, count: int) -> list[Picture]:
    """``count`` pictures (H, W, 3) uint8: the first of a folder, or smooth synthetic ones."""
    if folder is None:
        return [_smooth_picture(seed) for seed in range(count)]
    from PIL import Image  # noqa: PLC0415 - only to read files; a bare machine may lack it

    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(paths) < count:
        raise SystemExit(f"{folder} holds {len(paths)} pictures; {count} are wanted")
    return [np.array(Image.open(path).convert("RGB")) for path in paths[:count]]


def resize_pictures(pictures: Sequence[Picture], short_side: int, long_side: int) -> list[Tensor]:
    """Pictures (h, w, 3) uint8 at the network's size."""
    return [
        resize_image(
            torch.from_numpy(picture),
            resized_size(ImageSize(*picture.shape[:2]), short_side, long_side),
        )
        for picture in pictures
    ]


def draw_ellipses(size: ImageSize, count: int, classes: int, seed: int) -> Targets:
    """``count`` objects of COCO's spread of sizes, as polygons of 32 corners, with keypoints."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size.width, size.height], dtype=torch.float32)
    radius = (0.03 + 0.25 * torch.rand(count, 2, generator=generator) ** 2) * extent
    centre = radius + torch.rand(count, 2, generator=generator) * (extent - 2 * radius)
    angle = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    vertices = (centre[:, None] + radius[:, None] * circle).reshape(-1, 2)
    masks = PolygonMasks(vertices, 32 * torch.arange(count + 1), torch.arange(count + 1))
    labels = torch.randint(1, classes + 1, (count,), generator=generator)
    boxes = torch.cat((centre - radius, centre + radius), 1)
    shares = 2 * torch.rand(count, _KEYPOINTS, 2, generator=generator) - 1
    points = centre[:, None] + shares * radius[:, None]
    seen = torch.full((count, _KEYPOINTS, 1), 2.0)
    return Targets(boxes, labels, masks, torch.cat((points, seen), 2))


def time_alternately(
    calls: Sequence[Callable[[], object]], repeats: int, device: torch.device
) -> list[float]:
    """Median milliseconds of each call, run in turn so that a busy machine disturbs all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, taken in zip(calls, times, strict=True):
            _synchronise(device)
            start = time.perf_counter()
            call()
            _synchronise(device)
            if repeat:  # the first warms up
                taken.append(1000 * (time.perf_counter() - start))
    return [sorted(taken)[len(taken) // 2] for taken in times]


def autocast_to(name: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast to fp16 or bf16; nothing for fp32."""
    if name == "fp32":
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[name])


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _smooth_picture(seed: int) -> Picture:
    height, width = ((480, 640), (640, 480), (427, 640))[seed % 3]
    coarse = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (fine[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()
