"""Narrow models of Detectron and maskrcnn-benchmark: random layers by key, under no name yet.

A key is a tuple: ("stem",), ("block", stage, number, branch) with branch 0 for the shortcut,
("offset", stage, number), ("lateral", stage), ("output", stage), ("top", 6), ("rpn",) ..
"""

from dataclasses import dataclass

import numpy as np
import torch

CLASSES, PYRAMID, HIDDEN, KEYPOINTS = 5, 16, 24, 17
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
WIDTH = 8


@dataclass(frozen=True)
class Kind:
    """What a model is made of.

    heads: proposals, boxes, masks, keypoints, retinanet; boxes include proposals.
    offset_rows: of deformable convolutions in stages 3 to 5: 18 are v1, 27 v2.
    """

    heads: tuple[str, ...]
    features: str = "fpn"
    depth: int = 50
    groups: int = 1
    norm: str = "batch"
    box_convolutions: int = 0
    class_agnostic: bool = False
    offset_rows: int = 0
    p6_from: str = "c5"

    @property
    def stride_in_1x1(self):
        return self.norm == "batch" and self.groups == 1

    @property
    def finest(self):
        return 3 if "retinanet" in self.heads else 2

    def stages(self):
        """Return the stages, wherever res5 is; a C4 proposal network has none."""
        without = self.features == "c4" and "boxes" not in self.heads
        return (2, 3, 4) if without else (2, 3, 4, 5)


@dataclass(frozen=True)
class Layer:
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    norm: dict[str, torch.Tensor] | None = None


class Layers(dict):
    """Random layers of a kind of model, by key."""

    def __init__(self, kind, statistics, seed=0):
        super().__init__()
        self.kind, self.statistics = kind, statistics
        self.rng = np.random.default_rng(seed)
        self._backbone()
        channels = PYRAMID if kind.features == "fpn" else 16 * WIDTH
        if kind.features == "fpn":
            self._pyramid()
        if "retinanet" in kind.heads:
            self._retinanet()
            return
        anchors = 3 if kind.features == "fpn" else 15
        self._add(("rpn",), (channels, channels, 3, 3))
        self._add(("objectness",), (anchors, channels, 1, 1))
        self._add(("anchor deltas",), (4 * anchors, channels, 1, 1))
        if "boxes" in kind.heads:
            self._boxes()
        if "masks" in kind.heads:
            self._masks()
        if "keypoints" in kind.heads:
            self._keypoints()

    def _backbone(self):
        norm, inside = self.kind.norm, WIDTH
        self._add(("stem",), (WIDTH, 3, 7, 7), norm)
        for stage, blocks in zip((2, 3, 4, 5), BLOCKS[self.kind.depth], strict=True):
            if stage not in self.kind.stages():
                continue
            out = 4 * WIDTH << (stage - 2)
            middle = out if self.kind.groups > 1 else out // 4
            for block in range(blocks):
                if block == 0:
                    self._add(("block", stage, 0, 0), (out, inside, 1, 1), norm)
                self._add(("block", stage, block, 1), (middle, inside, 1, 1), norm)
                square = (middle, middle // self.kind.groups, 3, 3)
                self._add(("block", stage, block, 2), square, norm)
                self._add(("block", stage, block, 3), (out, middle, 1, 1), norm)
                if self.kind.offset_rows and stage > 2:
                    self._add(("offset", stage, block), (self.kind.offset_rows, middle, 3, 3))
                inside = out

    def _pyramid(self):
        norm = "group" if self.kind.norm == "group" else "none"
        for stage in range(self.kind.finest, 6):
            self._add(("lateral", stage), (PYRAMID, 4 * WIDTH << (stage - 2), 1, 1), norm)
            self._add(("output", stage), (PYRAMID, PYRAMID, 3, 3), norm)
        if "retinanet" in self.kind.heads:
            below = PYRAMID if self.kind.p6_from == "p5" else 32 * WIDTH
            self._add(("top", 6), (PYRAMID, below, 3, 3))
            self._add(("top", 7), (PYRAMID, PYRAMID, 3, 3))

    def _retinanet(self):
        for tower in ("class tower", "box tower"):
            for layer in range(4):
                self._add((tower, layer), (PYRAMID, PYRAMID, 3, 3))
        self._add(("class logits",), (9 * CLASSES, PYRAMID, 3, 3))
        self._add(("box deltas",), (9 * 4, PYRAMID, 3, 3))

    def _boxes(self):
        norm = "group" if self.kind.norm == "group" else "none"
        channels = 32 * WIDTH
        if self.kind.features == "fpn":
            for layer in range(1, self.kind.box_convolutions + 1):
                self._add(("box", layer), (PYRAMID, PYRAMID, 3, 3), norm)
            after = norm if not self.kind.box_convolutions else "none"
            self._add(("fc", 1), (HIDDEN, PYRAMID * 49), after)
            if not self.kind.box_convolutions:
                self._add(("fc", 2), (HIDDEN, HIDDEN), after)
            channels = HIDDEN
        classes = 1 if "keypoints" in self.kind.heads else CLASSES
        self._add(("scores",), (classes + 1, channels))
        boxes = 2 if self.kind.class_agnostic else classes + 1
        self._add(("boxes",), (4 * boxes, channels))

    def _masks(self):
        norm = "group" if self.kind.norm == "group" else "none"
        inside = 32 * WIDTH
        if self.kind.features == "fpn":
            for layer in range(1, 5):
                self._add(("mask", layer), (PYRAMID, PYRAMID, 3, 3), norm)
            inside = PYRAMID
        self._add(("mask upsampling",), (inside, PYRAMID, 2, 2), transposed=True)
        self._add(("masks",), (CLASSES + 1, PYRAMID, 1, 1))

    def _keypoints(self):
        for layer in range(1, 9):
            inside = PYRAMID if layer == 1 else HIDDEN
            self._add(("keypoint", layer), (HIDDEN, inside, 3, 3))
        self._add(("heatmaps",), (HIDDEN, KEYPOINTS, 4, 4), transposed=True)

    def _add(self, key, shape, norm="none", transposed=False):
        channels = shape[1] if transposed else shape[0]
        weight = self._random(shape) / np.sqrt(np.prod(shape[1:]))
        if norm == "none":
            self[key] = Layer(weight, self._random((channels,)))
            return
        values = {"weight": 1 + self._random((channels,)) / 4, "bias": self._random((channels,))}
        if norm == "batch" and self.statistics:
            values["running_mean"] = self._random((channels,))
            values["running_var"] = 0.5 + self._random((channels,)) ** 2
        self[key] = Layer(weight, norm=values)

    def _random(self, shape):
        return torch.from_numpy(self.rng.standard_normal(shape).astype(np.float32))
