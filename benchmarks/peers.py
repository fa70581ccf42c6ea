"""torchvision's Mask R-CNN R50-FPN and ours with the same weights, and pictures for both.

Needs torch and torchvision alone (and Pillow, to read pictures).
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from model import Detector, load_detector
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize, PolygonMasks, Targets

Picture = np.ndarray


def build_peer(short_side: int, long_side: int, device: torch.device) -> MaskRCNN:
    """The peer: torchvision's ``maskrcnn_resnet50_fpn`` as with COCO weights (v1).

    The weights are random, spread so that a picture shows some dozens of objects.
    """
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    peer = MaskRCNN(backbone, num_classes=91, min_size=short_side, max_size=long_side)
    with torch.no_grad():
        for name, module in peer.named_modules():
            if isinstance(module, FrozenBatchNorm2d):
                module.eps = 0.0
                module.weight.fill_(0.3 if name.endswith("bn3") else 1.0)
        peer.rpn.head.cls_logits.weight *= 20
        peer.rpn.head.bbox_pred.weight *= 5
        peer.roi_heads.box_predictor.cls_score.weight *= 18
    return peer.to(device)


def build_ours(peer: MaskRCNN, short_side: int, long_side: int, device: torch.device) -> Detector:
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


def draw_ellipses(size: ImageSize, count: int, seed: int) -> Targets:
    """``count`` objects of COCO's spread of sizes, as polygons of 32 corners."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size.width, size.height], dtype=torch.float32)
    radius = (0.03 + 0.25 * torch.rand(count, 2, generator=generator) ** 2) * extent
    centre = radius + torch.rand(count, 2, generator=generator) * (extent - 2 * radius)
    angle = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    vertices = (centre[:, None] + radius[:, None] * circle).reshape(-1, 2)
    masks = PolygonMasks(vertices, 32 * torch.arange(count + 1), torch.arange(count + 1))
    labels = torch.randint(1, 91, (count,), generator=generator)
    return Targets(torch.cat((centre - radius, centre + radius), 1), labels, masks)


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
