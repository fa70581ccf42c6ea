"""Reference implementation of Detectron and maskrcnn-benchmark in plain function calls."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from tests.model.weights.detectron.model_layers import BLOCKS, Kind, Layers


@dataclass(frozen=True)
class Network:
    kind: Kind
    layers: Layers

    def convolve(self, x, key, stride=1, groups=1, relu=True):
        layer = self.layers[key]
        pad = layer.weight.shape[-1] // 2
        x = F.conv2d(x, layer.weight, layer.bias, stride, pad, 1, groups)
        x = self._normalize(x, layer.norm)
        return F.relu(x) if relu else x

    def _normalize(self, x, norm):
        if norm is None:
            return x
        if self.layers.kind.norm == "group":
            groups = math.gcd(32, x.shape[1])
            return F.group_norm(x, groups, norm["weight"], norm["bias"], 1e-5)
        if "running_var" in norm:
            mean, var = (norm[f"running_{what}"].view(-1, 1, 1) for what in ("mean", "var"))
            x = (x - mean) / var.sqrt()
        return x * norm["weight"].view(-1, 1, 1) + norm["bias"].view(-1, 1, 1)

    def backbone(self, x):
        x = F.max_pool2d(self.convolve(x, ("stem",), stride=2), 3, 2, 1)
        last, maps = 4 if self.kind.features == "c4" else 5, []
        for stage in range(2, last + 1):
            x = self.stage(x, stage)
            maps.append(x)
        return maps

    def stage(self, x, stage):
        for block in range(BLOCKS[self.kind.depth][stage - 2]):
            x = self._block(x, stage, block)
        return x

    def _block(self, x, stage, block):
        key = ("block", stage, block)
        stride = 2 if block == 0 and stage > 2 else 1
        first, second = (stride, 1) if self.kind.stride_in_1x1 else (1, stride)
        y = self.convolve(x, (*key, 1), first)
        if ("offset", stage, block) in self.layers:
            y = self._deform(y, stage, block, second)
        else:
            y = self.convolve(y, (*key, 2), second, self.kind.groups)
        y = self.convolve(y, (*key, 3), relu=False)
        shortcut = self.convolve(x, (*key, 0), stride, relu=False) if block == 0 else x
        return F.relu(y + shortcut)

    def _deform(self, x, stage, block, stride):
        layer = self.layers["block", stage, block, 2]
        predicted = self.convolve(x, ("offset", stage, block), stride, relu=False)
        mask = predicted[:, -9:].sigmoid() if self.kind.offset_rows == 27 else None
        x = deform_conv2d(x, predicted[:, :18], layer.weight, None, stride, 1, mask=mask)
        return F.relu(self._normalize(x, layer.norm))

    def pyramid(self, maps):
        merged, levels = None, []
        for stage in range(5, self.kind.finest - 1, -1):
            lateral = self.convolve(maps[stage - 2], ("lateral", stage), relu=False)
            merged = lateral if merged is None else lateral + F.interpolate(merged, scale_factor=2)
            levels.insert(0, self.convolve(merged, ("output", stage), relu=False))
        if ("top", 6) not in self.layers:
            return [*levels, levels[-1][:, :, ::2, ::2]]
        source = maps[-1] if self.kind.p6_from == "c5" else levels[-1]
        p6 = self.convolve(source, ("top", 6), 2, relu=False)
        return [*levels, p6, self.convolve(F.relu(p6), ("top", 7), 2, relu=False)]

    def proposals(self, x):
        hidden = self.convolve(x, ("rpn",))
        return tuple(
            self.convolve(hidden, (what,), relu=False) for what in ("objectness", "anchor deltas")
        )

    def retinanet(self, x):
        results = []
        for tower, last in (("class tower", "class logits"), ("box tower", "box deltas")):
            hidden = x
            for layer in range(4):
                hidden = self.convolve(hidden, (tower, layer))
            results.append(self.convolve(hidden, (last,), relu=False))
        return results

    def boxes(self, pooled):
        if self.kind.features == "c4":
            hidden = self.stage(pooled, 5).mean((2, 3))
        else:
            for layer in range(1, self.kind.box_convolutions + 1):
                pooled = self.convolve(pooled, ("box", layer))
            hidden = F.relu(self._linear(pooled.flatten(1), ("fc", 1)))
            if ("fc", 2) in self.layers:
                hidden = F.relu(self._linear(hidden, ("fc", 2)))
        return self._linear(hidden, ("scores",)), self._linear(hidden, ("boxes",))

    def _linear(self, x, key):
        layer = self.layers[key]
        return self._normalize(F.linear(x, layer.weight, layer.bias), layer.norm)

    def masks(self, pooled):
        if self.kind.features == "c4":
            x = self.stage(pooled, 5)
        else:
            x = pooled
            for layer in range(1, 5):
                x = self.convolve(x, ("mask", layer))
        up = self.layers["mask upsampling",]
        x = F.relu(F.conv_transpose2d(x, up.weight, up.bias, stride=2))
        return self.convolve(x, ("masks",), relu=False)

    def heatmaps(self, pooled):
        x = pooled
        for layer in range(1, 9):
            x = self.convolve(x, ("keypoint", layer))
        up = self.layers["heatmaps",]
        x = F.conv_transpose2d(x, up.weight, up.bias, stride=2, padding=1)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def anchor_at(grid, size, ratio, level=0):
    """Return the index of a cell's anchor nearest to this size and ratio of height over width.

    Not the equal one, because anchors of legacy geometry are rounded.
    """
    boxes = grid.cell_anchors[level]
    sides = (boxes[:, 2:] - boxes[:, :2]).log()
    expected = torch.tensor([size / math.sqrt(ratio), size * math.sqrt(ratio)]).log()
    return int((sides - expected).square().sum(1).argmin())


def assert_close(actual, expected):
    # Thousands of float32 products summed in another order, and Winograd convolutions.
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4 * scale)


@torch.no_grad()
def assert_same_maps(detector, network):
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    maps = network.backbone(x)
    for actual, expected in zip(detector.backbone(x), maps, strict=True):
        assert_close(actual, expected)
    if network.kind.features == "fpn":
        for actual, expected in zip(detector.fpn(maps), network.pyramid(maps), strict=True):
            assert_close(actual, expected)


@torch.no_grad()
def assert_same_roi_heads(detector, network):
    channels = 16 if network.kind.features == "fpn" else 128
    generator = torch.Generator().manual_seed(2)
    side = detector.config.box.pool_side
    pooled = torch.randn(3, channels, side, side, generator=generator)
    logits, deltas = detector.roi_heads.box(pooled)
    scores, boxes = network.boxes(pooled)
    assert_close(logits, scores)
    # A class-agnostic predictor also has a box of the background, which nothing reads.
    assert_close(deltas.flatten(1), boxes[:, 4:] if network.kind.class_agnostic else boxes)
    pooled = torch.randn(3, channels, 14, 14, generator=generator)
    if "masks" in network.kind.heads:
        labels = torch.tensor([1, 3, 5])
        maps = detector.roi_heads.box.extract(pooled) if channels == 128 else pooled
        masks = detector.roi_heads.mask(maps, labels)
        assert_close(masks, network.masks(pooled)[torch.arange(3), labels])
    if "keypoints" in network.kind.heads:
        heatmaps = detector.roi_heads.keypoint(pooled)
        assert_close(heatmaps, network.heatmaps(pooled))


@torch.no_grad()
def assert_same_anchors(detector, network, anchors):
    """Compare the dense head anchor by anchor.

    Args:
        detector: ours.
        network: the reference.
        anchors: (size, ratio) of each of a cell's anchors, in the file's order.
    """
    one_stage = "retinanet" in network.kind.heads
    channels = 16 if network.kind.features == "fpn" else 128
    x = torch.randn(1, channels, 6, 9, generator=torch.Generator().manual_seed(3))
    head = detector.retinanet if one_stage else detector.rpn.head
    grid = (detector.retinanet if one_stage else detector.rpn).anchors
    expected_logits, expected_deltas = network.retinanet(x) if one_stage else network.proposals(x)
    classes = expected_logits.shape[1] // len(anchors)
    indices = [anchor_at(grid, size, ratio) for size, ratio in anchors]
    assert sorted(indices) == list(range(len(anchors))) and grid.per_cell == len(anchors)
    logits, deltas = (part.reshape(6, 9, len(anchors), -1) for part in head(x))
    for position, index in enumerate(indices):
        first = classes * position
        rows = expected_logits[0, first : first + classes].permute(1, 2, 0)
        assert_close(logits[:, :, index], rows)
        rows = expected_deltas[0, 4 * position : 4 * position + 4].permute(1, 2, 0)
        assert_close(deltas[:, :, index], rows)


def assert_same_architecture(detector, report, kind):
    """Check the inferred config, and that neither side has a tensor left over."""
    config = detector.config
    assert report.problems() == []
    assert len(report.loaded) == len(detector.state_dict())
    backbone = config.backbone
    assert (backbone.depth, backbone.width, backbone.features) == (kind.depth, 8, kind.features)
    assert (backbone.groups, config.conventions.stride_in_1x1) == (kind.groups, kind.stride_in_1x1)
    assert backbone.norm == {"batch": "frozen_bn", "group": "group_norm"}[kind.norm]
    assert backbone.deformable == {0: "none", 18: "v1", 27: "v2"}[kind.offset_rows]
    assert config.conventions.norm_epsilon == {"batch": 0, "group": 1e-5}[kind.norm]
    heads = [config.box, config.mask, config.keypoint, config.retinanet]
    names = ("boxes", "masks", "keypoints", "retinanet")
    assert [head is not None for head in heads] == [name in kind.heads for name in names]
    assert config.conventions.pixel_order == "bgr"
    assert config.conventions.pixel_mean == (102.9801, 115.9465, 122.7717)
