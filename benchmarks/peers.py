"""torchvision's R50-FPN detectors, ours with the same weights, and images for both.

Needs only torch and torchvision (and Pillow, to read images).
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from model import Predictor, load_detector
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize, PolygonMasks, Targets
from pipeline.config import load_config

Image = np.ndarray
"""(H, W, 3) uint8, RGB."""

MODELS = ("mask_rcnn", "faster_rcnn", "keypoint_rcnn", "retinanet")
LIGHT = "mask_rcnn_light"
PROPOSALS, PROPOSALS_PER_LEVEL = 100, 300  # of the light recipe
_KEYPOINTS = 17
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def build_peer(kind: str, short_side: int, long_side: int, device: torch.device) -> nn.Module:
    """Return the peer: torchvision's R50-FPN detector in the form of its COCO weights (v1).

    ``LIGHT`` is built of torchvision's parts as ``configs/mask_rcnn_r18_light.yaml`` is.
    The weights are random, scaled so that the model detects a few dozen objects per image.

    Args:
        kind: one of ``MODELS``, or ``LIGHT``.
        short_side: short side of an image, pixels.
        long_side: maximum long side, pixels.
        device: device of the weights.
    """
    torch.manual_seed(0)
    sizes = {"min_size": short_side, "max_size": long_side}
    if kind == LIGHT:
        return _randomize(_build_light_mask_rcnn(sizes)).to(device)
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
    return _randomize(build(backbone, num_classes=classes, **sizes)).to(device)


def _build_light_mask_rcnn(sizes: Mapping[str, int]) -> nn.Module:
    channels, hidden, classes = 64, 256, 91
    body = resnet18(weights=None, norm_layer=FrozenBatchNorm2d)
    stages = {f"layer{stage}": str(stage - 1) for stage in range(1, 5)}
    backbone = BackboneWithFPN(body, stages, [64, 128, 256, 512], channels, LastLevelMaxPool())
    return MaskRCNN(
        backbone,
        rpn_pre_nms_top_n_test=PROPOSALS_PER_LEVEL,
        rpn_post_nms_top_n_test=PROPOSALS,
        box_head=TwoMLPHead(channels * 7 * 7, hidden),
        box_predictor=FastRCNNPredictor(hidden, classes),
        mask_head=MaskRCNNHeads(channels, (channels, channels), dilation=1),
        mask_predictor=MaskRCNNPredictor(channels, channels, classes),
        **sizes,
    )


@torch.no_grad()
def _randomize(peer: nn.Module) -> nn.Module:
    """Scale the random weights, so that features keep their magnitude and scores vary."""
    is_shallow = not any(name.endswith("bn3") for name, _ in peer.named_modules())
    last = ("bn2",) if is_shallow else ("bn3",)
    for name, module in peer.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
            module.weight.fill_(0.3 if name.endswith(last) else 1.0)
    _spread_scores(peer)
    return peer


def _spread_scores(peer: nn.Module) -> None:
    if isinstance(peer, RetinaNet):
        for module in peer.head.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 3  # keeps the magnitude of activations through the towers
        peer.head.classification_head.cls_logits.weight *= 1.2
        return
    peer.rpn.head.cls_logits.weight *= 20
    peer.rpn.head.bbox_pred.weight *= 5
    peer.roi_heads.box_predictor.cls_score.weight *= 18


def build_ours(
    peer: nn.Module,
    short_side: int,
    long_side: int,
    device: torch.device,
    conventions: Mapping[str, object] | None = None,
) -> Predictor:
    """Return our detector with the peer's weights and settings.

    Args:
        peer: a detector of torchvision.
        short_side: short side of an image, pixels.
        long_side: maximum long side, pixels.
        device: device of the weights.
        conventions: those that the detector follows instead of torchvision's, by name.
    """
    settings = {"short_side": short_side, "long_side": long_side}
    if not isinstance(peer, RetinaNet):
        settings["proposals"] = peer.rpn._post_nms_top_n["testing"]
        settings["proposals_per_level"] = peer.rpn._pre_nms_top_n["testing"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peer.pth"
        torch.save({name: tensor.cpu() for name, tensor in peer.state_dict().items()}, path)
        return load_detector(path, None, device, conventions=conventions, **settings)


def recipe_conventions(kind: str) -> dict[str, object]:
    """Return the conventions of our 1x recipe for one of ``MODELS``, by name."""
    config = load_config(CONFIGS / f"{kind}_r50_fpn_1x.yaml")
    return config.model.conventions.model_dump()


def read_images(folder: Path | None, count: int) -> list[Image]:
    """Return the first ``count`` images of a folder, or smooth synthetic ones without a folder."""
    if folder is None:
        return [_smooth_image(seed) for seed in range(count)]
    import PIL.Image  # noqa: PLC0415 - only to read files; a bare machine may lack it

    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if len(paths) < count:
        raise SystemExit(f"{folder} has {len(paths)} images; needs {count}")
    return [np.array(PIL.Image.open(path).convert("RGB")) for path in paths[:count]]


def resize_images(images: Sequence[Image], short_side: int, long_side: int) -> list[Tensor]:
    """Return the images (H, W, 3) uint8 at the network's input size."""
    return [
        resize_image(
            torch.from_numpy(image),
            resized_size(ImageSize(*image.shape[:2]), short_side, long_side),
        )
        for image in images
    ]


def draw_ellipses(size: ImageSize, count: int, classes: int, seed: int) -> Targets:
    """Return ``count`` objects with COCO's range of sizes, as 32-gons with keypoints."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size.width, size.height], dtype=torch.float32)
    radius = (0.03 + 0.25 * torch.rand(count, 2, generator=generator) ** 2) * extent
    center = radius + torch.rand(count, 2, generator=generator) * (extent - 2 * radius)
    angle = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    circle = torch.stack((angle.cos(), angle.sin()), 1)
    vertices = (center[:, None] + radius[:, None] * circle).reshape(-1, 2)
    masks = PolygonMasks(vertices, 32 * torch.arange(count + 1), torch.arange(count + 1))
    labels = torch.randint(1, classes + 1, (count,), generator=generator)
    boxes = torch.cat((center - radius, center + radius), 1)
    fractions = 2 * torch.rand(count, _KEYPOINTS, 2, generator=generator) - 1
    points = center[:, None] + fractions * radius[:, None]
    visible = torch.full((count, _KEYPOINTS, 1), 2.0)
    return Targets(boxes, labels, masks, torch.cat((points, visible), 2))


def time_alternately(
    calls: Sequence[Callable[[], object]], repeats: int, device: torch.device
) -> list[float]:
    """Return the median milliseconds of each call; calls take turns, so load affects all alike."""
    times_ms: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, times in zip(calls, times_ms, strict=True):
            _synchronize(device)
            start = time.perf_counter()
            call()
            _synchronize(device)
            if repeat:  # the first is a warm-up
                times.append(1000 * (time.perf_counter() - start))
    return [sorted(times)[len(times) // 2] for times in times_ms]


def autocast_to(name: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the autocast context for fp16 or bf16, and an empty one for fp32."""
    if name == "fp32":
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[name])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _smooth_image(seed: int) -> Image:
    height, width = ((480, 640), (640, 480), (427, 640))[seed % 3]
    coarse = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (fine[0].clamp(0, 1) * 255).byte().permute(1, 2, 0).contiguous().numpy()
