"""Reference implementation of detectron2: a plain function per part, weights under its names.

Shapes: B images, A anchors per cell, R ROIs, K classes, M mask side.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from tests.model.weights.detectron2.zoo import BLOCKS, Model

Weights = Mapping[str, Tensor]


def layer(
    get: Weights, name: str, x: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Tensor:
    """Apply a convolution whose padding keeps the size, and its norm if it has one."""
    weight = get[f"{name}.weight"]
    padding = weight.shape[-1] // 2 * dilation
    geometry = stride, padding, dilation
    if f"{name}_offset.weight" in get:
        offsets = F.conv2d(x, get[f"{name}_offset.weight"], get[f"{name}_offset.bias"], *geometry)
        mask = offsets[:, 18:].sigmoid() if offsets.shape[1] == 27 else None
        x = deform_conv2d(x, offsets[:, :18], weight, None, *geometry, mask)
    else:
        x = F.conv2d(x, weight, get.get(f"{name}.bias"), *geometry, groups)
    return norm(get, f"{name}.norm", x)


def norm(get: Weights, name: str, x: Tensor) -> Tensor:
    if f"{name}.weight" not in get:
        return x
    scale, shift = get[f"{name}.weight"], get[f"{name}.bias"]
    if f"{name}.running_var" in get:
        mean, variance = get[f"{name}.running_mean"], get[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)
    if "backbone.fpn_output2.norm.weight" in get:
        return F.group_norm(x, min(32, _group_count(len(scale))), scale, shift, eps=1e-5)
    return x * scale[:, None, None] + shift[:, None, None]


def _group_count(channels: int) -> int:
    # Real models have 32 groups; the 8 and 16 channels of narrow ones have as many groups.
    return next(groups for groups in (32, 16, 8) if channels % groups == 0)


def stage(
    get: Weights, name: str, x: Tensor, model: Model, stride: int, dilation: int = 1
) -> Tensor:
    """Apply the bottlenecks of res2 .. res5; ResNets with frozen norms stride in the first 1x1."""
    in_1x1 = model.groups == 1 and model.norm in ("frozen", "affine")
    blocks = BLOCKS[model.depth][int(name[-1]) - 2]
    for number in range(blocks):
        block, step = f"{name}.{number}", stride if number == 0 else 1
        y = F.relu(layer(get, f"{block}.conv1", x, step if in_1x1 else 1))
        second = 1 if in_1x1 else step
        y = F.relu(layer(get, f"{block}.conv2", y, second, dilation, model.groups))
        y = layer(get, f"{block}.conv3", y)
        x = F.relu(y + (layer(get, f"{block}.shortcut", x, step) if number == 0 else x))
    return x


def backbone(get: Weights, model: Model, image: Tensor) -> list[Tensor]:
    """Compute the maps that RPN and heads read from an image, (B, 3, H, W) RGB, 0 to 255."""
    std = (57.375, 57.12, 58.395) if model.groups > 1 else (1.0, 1.0, 1.0)
    mean = torch.tensor((103.53, 116.28, 123.675)).view(3, 1, 1)
    x = (image.flip(1) - mean) / torch.tensor(std).view(3, 1, 1)
    x = F.relu(layer(get, f"{model.bottom}stem.conv1", x, 2))
    x = F.max_pool2d(x, 3, 2, 1)
    maps = {}
    for number in range(2, 5 if model.features == "c4" else 6):
        dilated = model.features == "dc5" and number == 5
        step = 1 if number == 2 or dilated else 2
        name = f"{model.bottom}res{number}"
        x = maps[number] = stage(get, name, x, model, step, 2 if dilated else 1)
    return _pyramid(get, model, maps) if model.features == "fpn" else [x]


def _pyramid(get: Weights, model: Model, maps: Mapping[int, Tensor]) -> list[Tensor]:
    top, result = None, {}
    for number in reversed(model.levels):
        lateral = layer(get, f"backbone.fpn_lateral{number}", maps[number])
        top = lateral if top is None else lateral + F.interpolate(top, scale_factor=2.0)
        result[number] = layer(get, f"backbone.fpn_output{number}", top)
    if not model.one_stage:
        result[6] = result[5][:, :, ::2, ::2]
    else:
        result[6] = layer(get, "backbone.top_block.p6", maps[5], 2)
        result[7] = layer(get, "backbone.top_block.p7", F.relu(result[6]), 2)
    return [result[number] for number in sorted(result)]


def proposal_head(get: Weights, model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute objectness (B, A, H, W) and deltas (B, 4 A, H, W)."""
    name = "proposal_generator.rpn_head"
    for number in range(model.rpn_layers):
        part = f"{name}.conv" if model.rpn_layers == 1 else f"{name}.conv.conv{number}"
        x = F.relu(layer(get, part, x))
    return layer(get, f"{name}.objectness_logits", x), layer(get, f"{name}.anchor_deltas", x)


def one_stage_head(get: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute class logits (B, A K, H, W) and deltas (B, 4 A, H, W)."""
    results = []
    for tower, last in (("cls_subnet", "cls_score"), ("bbox_subnet", "bbox_pred")):
        y = x
        for number in (0, 2, 4, 6):
            y = F.relu(layer(get, f"head.{tower}.{number}", y))
        results.append(layer(get, f"head.{last}", y))
    return results[0], results[1]


def cell_anchors(sizes: list[float], ratios: list[float]) -> Iterator[list[float]]:
    for size in sizes:
        for ratio in ratios:
            width = (size**2 / ratio) ** 0.5
            height = ratio * width
            yield [-width / 2, -height / 2, width / 2, height / 2]


def linear(get: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, get[f"{name}.weight"], get[f"{name}.bias"])


def box_head(get: Weights, model: Model, pooled: Tensor) -> tuple[Tensor, Tensor]:
    """Compute scores (R, K + 1), the background last, and deltas (R, 4 K) or (R, 4)."""
    if model.features == "c4":
        x = stage(get, "roi_heads.res5", pooled, model, 2).mean((2, 3))
    else:
        x = pooled
        for number in range(1, model.convs + 1):
            x = F.relu(layer(get, f"roi_heads.box_head.conv{number}", x))
        x = x.flatten(1)
        for number in (1,) if model.convs else (1, 2):
            x = F.relu(linear(get, f"roi_heads.box_head.fc{number}", x))
    name = "roi_heads.box_predictor"
    return linear(get, f"{name}.cls_score", x), linear(get, f"{name}.bbox_pred", x)


def mask_head(get: Weights, model: Model, pooled: Tensor) -> Tensor:
    """Compute a mask of each class, (R, K, M, M), or one for all classes."""
    x, name = pooled, "roi_heads.mask_head"
    if model.features == "c4":
        x = stage(get, "roi_heads.res5", pooled, model, 2)
    for number in range(1, 5) if model.features != "c4" else ():
        x = F.relu(layer(get, f"{name}.mask_fcn{number}", x))
    x = F.conv_transpose2d(x, get[f"{name}.deconv.weight"], get[f"{name}.deconv.bias"], stride=2)
    return layer(get, f"{name}.predictor", F.relu(x))


def keypoint_head(get: Weights, pooled: Tensor) -> Tensor:
    """Compute heatmaps four times the size of the pooled features."""
    x, name = pooled, "roi_heads.keypoint_head"
    for number in range(1, 9):
        x = F.relu(layer(get, f"{name}.conv_fcn{number}", x))
    last = get[f"{name}.score_lowres.weight"], get[f"{name}.score_lowres.bias"]
    x = F.conv_transpose2d(x, *last, stride=2, padding=1)
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
