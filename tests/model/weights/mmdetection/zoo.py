"""Narrow models of MMDetection's zoo: their layers under its names, and their training configs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEM, PYRAMID, HIDDEN, HEAD = 8, 32, 24, 32
RGB = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
BGR = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)
FAIR = ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), False)


@dataclass(frozen=True)
class Model:
    """A kind of model in the zoo, an eighth as wide.

    Args:
        features: fpn, c4 or dc5.
        style: pytorch, or caffe: strides in the 1x1, norms folded into affine maps.
        norm: bn; or gn, which pyramid and heads have too, and otherwise no norm.
        groups: of the 3x3 convolutions, of ``group_width`` channels in the first stage.
        deform: rows of offsets of the last three stages, 18 or 27.
        convs: convolutions of the box head.
        pixels: mean, standard deviation, and whether they are RGB.
    """

    depth: int = 50
    features: str = "fpn"
    style: str = "pytorch"
    norm: str = "bn"
    groups: int = 1
    group_width: int = STEM
    deform: int = 0
    classes: int = 5
    rois: bool = True
    masks: bool = False
    agnostic: bool = False
    convs: int = 0
    rpn_layers: int = 1
    one_stage: bool = False
    pixels: tuple = RGB

    @property
    def channels(self) -> int:
        """Channels of the maps that RPN and heads read."""
        return {"fpn": PYRAMID, "c4": 16 * STEM, "dc5": 32 * STEM}[self.features]

    @property
    def first_level(self) -> int:
        """Stage of the finest level of the pyramid, from 0."""
        return 1 if self.one_stage else 0


FASTER = Model()
MASK = Model(masks=True)
CAFFE = {"style": "caffe", "pixels": BGR}
ZOO = {
    "faster R101": replace(FASTER, depth=101),
    "mask R50": MASK,
    "mask R50 caffe": replace(MASK, **CAFFE),
    "mask X101 32x4d": replace(MASK, depth=101, groups=32, group_width=4),
    "mask X101 32x8d": replace(MASK, depth=101, groups=32, group_width=8, pixels=FAIR),
    "mask R50 GN": replace(MASK, norm="gn", convs=4, pixels=BGR),
    "mask R50 DCN": replace(MASK, deform=18),
    "mask R50 DCNv2": replace(MASK, deform=27),
    "mask C4": replace(MASK, features="c4", **CAFFE),
    "mask C4 pytorch": replace(MASK, features="c4"),
    "faster C4": replace(FASTER, features="c4", **CAFFE),
    "faster DC5": replace(FASTER, features="dc5", **CAFFE),
    "class-agnostic": replace(FASTER, agnostic=True),
    "two RPN layers": replace(FASTER, rpn_layers=2),
    "LVIS": replace(MASK, classes=1203),
    "RPN R50": replace(FASTER, rois=False),
    "RPN C4": replace(FASTER, rois=False, features="c4", **CAFFE),
    "RetinaNet R50": replace(FASTER, rois=False, one_stage=True),
    "RetinaNet caffe": replace(FASTER, rois=False, one_stage=True, **CAFFE),
}


def make_weights(model: Model, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights under MMDetection's names."""
    layers = _Layers(torch.Generator().manual_seed(seed), model)
    _add_backbone(layers, model)
    if model.features == "fpn":
        _add_neck(layers, model)
    if model.one_stage:
        for tower in ("cls_convs", "reg_convs"):
            for number in range(4):
                layers.add(f"bbox_head.{tower}.{number}.conv", (PYRAMID, PYRAMID, 3, 3))
        layers.add("bbox_head.retina_cls", (9 * model.classes, PYRAMID, 3, 3))
        layers.add("bbox_head.retina_reg", (9 * 4, PYRAMID, 3, 3))
        return layers.weights
    channels, anchors = model.channels, 3 if model.features == "fpn" else 15
    for number in range(model.rpn_layers):
        several = f".{number}.conv" if model.rpn_layers > 1 else ""
        layers.add(f"rpn_head.rpn_conv{several}", (channels, channels, 3, 3))
    layers.add("rpn_head.rpn_cls", (anchors, channels, 1, 1))
    layers.add("rpn_head.rpn_reg", (4 * anchors, channels, 1, 1))
    if model.rois:
        _add_heads(layers, model)
    return layers.weights


class _Layers:
    def __init__(self, generator: torch.Generator, model: Model) -> None:
        self.weights: dict[str, Tensor] = {}
        self.generator, self.model = generator, model

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def add(self, name: str, shape: tuple[int, ...], biased: int = 0) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        self.weights[f"{name}.weight"] = self.draw(*shape) / fan_in**0.5
        self.weights[f"{name}.bias"] = self.draw(biased or shape[0])

    def add_normed(self, name: str, norm: str, shape: tuple[int, ...]) -> None:
        """Add a convolution without bias, and its norm."""
        self.add(name, shape)
        del self.weights[f"{name}.bias"]
        # The last norm of a block is small, so that activations do not grow with depth.
        size = 0.3 if name.endswith("conv3") else 1.0
        self.weights[f"{norm}.weight"] = size * (1 + 0.2 * self.draw(shape[0]))
        self.weights[f"{norm}.bias"] = 0.2 * self.draw(shape[0])
        if self.model.norm == "bn":
            folded = self.model.style == "caffe"
            mean, variance = 0.1 * self.draw(shape[0]), 0.5 + self.draw(shape[0]) ** 2
            self.weights[f"{norm}.running_mean"] = torch.zeros(shape[0]) if folded else mean
            self.weights[f"{norm}.running_var"] = torch.ones(shape[0]) if folded else variance
            self.weights[f"{norm}.num_batches_tracked"] = torch.tensor(0)

    def add_module(self, name: str, shape: tuple[int, ...]) -> None:
        """Add a module of a convolution and, in models with group norm, its norm."""
        if self.model.norm == "gn":
            self.add_normed(f"{name}.conv", f"{name}.gn", shape)
        else:
            self.add(f"{name}.conv", shape)


def _add_backbone(layers: _Layers, model: Model) -> None:
    norm = model.norm
    layers.add_normed("backbone.conv1", f"backbone.{norm}1", (STEM, 3, 7, 7))
    inside = STEM
    last = 4 if model.features != "c4" or model.rois else 3
    for stage in range(1, last + 1):
        owner = "roi_head.shared_head" if model.features == "c4" and stage == 4 else "backbone"
        out, width = STEM << (stage + 1), model.groups * model.group_width << (stage - 1)
        for number in range(BLOCKS[model.depth][stage - 1]):
            block = f"{owner}.layer{stage}.{number}"
            if number == 0:
                shape = (out, inside, 1, 1)
                layers.add_normed(f"{block}.downsample.0", f"{block}.downsample.1", shape)
            layers.add_normed(f"{block}.conv1", f"{block}.{norm}1", (width, inside, 1, 1))
            shape = (width, width // model.groups, 3, 3)
            layers.add_normed(f"{block}.conv2", f"{block}.{norm}2", shape)
            if model.deform and stage > 1:
                layers.add(f"{block}.conv2.conv_offset", (model.deform, width, 3, 3))
            layers.add_normed(f"{block}.conv3", f"{block}.{norm}3", (out, width, 1, 1))
            inside = out


def _add_neck(layers: _Layers, model: Model) -> None:
    stages = range(model.first_level, 4)
    for number, stage in enumerate(stages):
        layers.add_module(f"neck.lateral_convs.{number}", (PYRAMID, STEM << (stage + 2), 1, 1))
        layers.add_module(f"neck.fpn_convs.{number}", (PYRAMID, PYRAMID, 3, 3))
    if model.one_stage:
        layers.add(f"neck.fpn_convs.{len(stages)}.conv", (PYRAMID, 32 * STEM, 3, 3))
        layers.add(f"neck.fpn_convs.{len(stages) + 1}.conv", (PYRAMID, PYRAMID, 3, 3))


def _add_heads(layers: _Layers, model: Model) -> None:
    name, inside = "roi_head.bbox_head", model.channels
    if model.features == "c4":
        inside = 32 * STEM
    else:
        for number in range(model.convs):
            layers.add_module(f"{name}.shared_convs.{number}", (HEAD, inside, 3, 3))
            inside = HEAD
        inside *= 49
        for number in range(1 if model.convs else 2):
            layers.add(f"{name}.shared_fcs.{number}", (HIDDEN, inside))
            inside = HIDDEN
    layers.add(f"{name}.fc_cls", (model.classes + 1, inside))
    layers.add(f"{name}.fc_reg", (4 if model.agnostic else 4 * model.classes, inside))
    if model.masks:
        name, inside = "roi_head.mask_head", model.channels
        for number in range(0 if model.features == "c4" else 4):
            layers.add_module(f"{name}.convs.{number}", (HEAD, inside, 3, 3))
            inside = HEAD
        inside = 32 * STEM if model.features == "c4" else HEAD
        layers.add(f"{name}.upsample", (inside, HEAD, 2, 2), biased=HEAD)
        layers.add(f"{name}.conv_logits", (model.classes, HEAD, 1, 1))
