"""Reference implementation of MMDetection in float64: a function per part, under its names.

Shapes: B images, A anchors per cell, R ROIs, K classes, M mask side.
"""

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from tests.model.weights.mmdetection.zoo import BLOCKS


def layer(get, name, x, norm="", stride=1, dilation=1, groups=1):
    """Apply a convolution whose padding keeps the size, and its norm if it has one."""
    weight = get[f"{name}.weight"]
    geometry = stride, weight.shape[-1] // 2 * dilation, dilation
    offset = f"{name}.conv_offset"
    if f"{offset}.weight" in get:
        moved = F.conv2d(x, get[f"{offset}.weight"], get[f"{offset}.bias"], *geometry)
        modulation = moved[:, 18:].sigmoid() if moved.shape[1] == 27 else None
        x = deform_conv2d(x, moved[:, :18], weight, None, *geometry, modulation)
    else:
        x = F.conv2d(x, weight, get.get(f"{name}.bias"), *geometry, groups)
    if f"{norm}.weight" not in get:
        return x
    scale, shift = get[f"{norm}.weight"], get[f"{norm}.bias"]
    if f"{norm}.running_var" in get:
        mean, variance = get[f"{norm}.running_mean"], get[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, scale, shift, eps=1e-5)
    # Real models have 32 groups; narrow ones as many as divide their channels.
    count = next(groups for groups in (32, 16, 8) if len(scale) % groups == 0)
    return F.group_norm(x, count, scale, shift, eps=1e-5)


def module(get, name, x, stride=1):
    return layer(get, f"{name}.conv", x, f"{name}.gn", stride)


def stage(get, name, x, model, stride, dilation=1):
    """Apply the bottlenecks of ``layer1`` .. ``layer4``; in the style "caffe" the 1x1 strides."""
    in_1x1 = model.style == "caffe"
    for number in range(BLOCKS[model.depth][int(name[-1]) - 1]):
        block, step = f"{name}.{number}", stride if number == 0 else 1
        norm = f"{block}.{model.norm}"
        y = F.relu(layer(get, f"{block}.conv1", x, f"{norm}1", step if in_1x1 else 1))
        step_of_3x3 = 1 if in_1x1 else step
        y = layer(get, f"{block}.conv2", y, f"{norm}2", step_of_3x3, dilation, model.groups)
        y = layer(get, f"{block}.conv3", F.relu(y), f"{norm}3")
        if number == 0:
            x = layer(get, f"{block}.downsample.0", x, f"{block}.downsample.1", step)
        x = F.relu(y + x)
    return x


def backbone(get, model, image):
    """Compute the maps that RPN and heads read from an image, (B, 3, H, W) RGB, 0 to 255."""
    mean, std, is_rgb = model.pixels
    mean, std = (torch.tensor(values, dtype=image.dtype).view(3, 1, 1) for values in (mean, std))
    x = ((image if is_rgb else image.flip(1)) - mean) / std
    x = F.relu(layer(get, "backbone.conv1", x, f"backbone.{model.norm}1", 2))
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for number in range(1, 4 if model.features == "c4" else 5):
        dilated = model.features == "dc5" and number == 4
        step = 1 if number == 1 or dilated else 2
        x = stage(get, f"backbone.layer{number}", x, model, step, 2 if dilated else 1)
        maps.append(x)
    return pyramid(get, model, maps) if model.features == "fpn" else [x]


def pyramid(get, model, maps):
    inputs = maps[model.first_level :]
    merged = [module(get, f"neck.lateral_convs.{i}", x) for i, x in enumerate(inputs)]
    for i in range(len(merged) - 1, 0, -1):
        merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[2:])
    result = [module(get, f"neck.fpn_convs.{i}", x) for i, x in enumerate(merged)]
    if not model.one_stage:
        return [*result, result[-1][:, :, ::2, ::2]]
    p6 = module(get, "neck.fpn_convs.3", maps[-1], 2)
    # No ReLU between them: relu_before_extra_convs is False.
    return [*result, p6, module(get, "neck.fpn_convs.4", p6, 2)]


def proposal_head(get, model, x):
    """Compute objectness (B, A, H, W) and deltas (B, 4 A, H, W)."""
    for number in range(model.rpn_layers):
        several = f".{number}.conv" if model.rpn_layers > 1 else ""
        x = F.relu(layer(get, f"rpn_head.rpn_conv{several}", x))
    return layer(get, "rpn_head.rpn_cls", x), layer(get, "rpn_head.rpn_reg", x)


def one_stage_head(get, x):
    """Compute class logits (B, A K, H, W) and deltas (B, 4 A, H, W)."""
    results = []
    for tower, last in (("cls_convs", "retina_cls"), ("reg_convs", "retina_reg")):
        y = x
        for number in range(4):
            y = F.relu(module(get, f"bbox_head.{tower}.{number}", y))
        results.append(layer(get, f"bbox_head.{last}", y))
    return results


def cell_anchors(scales, ratios, base):
    """Return the anchors of cell (0, 0) in MMDetection's order."""
    boxes = []
    for ratio in ratios:
        for scale in scales:
            width, height = base * scale / ratio**0.5, base * scale * ratio**0.5
            boxes.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(boxes, dtype=torch.float64)


def linear(get, name, x):
    return F.linear(x, get[f"{name}.weight"], get[f"{name}.bias"])


def box_head(get, model, pooled):
    """Compute scores (R, K + 1), the background last, and deltas (R, 4 K) or (R, 4)."""
    name, x = "roi_head.bbox_head", pooled
    if model.features == "c4":
        x = stage(get, "roi_head.shared_head.layer4", x, model, 2).mean((2, 3))
    else:
        for number in range(model.convs):
            x = F.relu(module(get, f"{name}.shared_convs.{number}", x))
        x = x.flatten(1)
        for number in range(1 if model.convs else 2):
            x = F.relu(linear(get, f"{name}.shared_fcs.{number}", x))
    return linear(get, f"{name}.fc_cls", x), linear(get, f"{name}.fc_reg", x)


def mask_head(get, model, pooled):
    """Compute a mask of each class, (R, K, M, M)."""
    name, x = "roi_head.mask_head", pooled
    if model.features == "c4":
        x = stage(get, "roi_head.shared_head.layer4", x, model, 2)
    for number in range(0 if model.features == "c4" else 4):
        x = F.relu(module(get, f"{name}.convs.{number}", x))
    last = get[f"{name}.upsample.weight"], get[f"{name}.upsample.bias"]
    return layer(get, f"{name}.conv_logits", F.relu(F.conv_transpose2d(x, *last, stride=2)))
