"""Narrow models of detectron2's zoo: their layers, under detectron2's names."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEM, PYRAMID, HIDDEN, HEAD = 8, 32, 24, 32
RATIOS, SIZES = 3, 5


@dataclass(frozen=True)
class Model:
    """A kind of model in the zoo, an eighth as wide.

    Args:
        features: fpn, c4 or dc5.
        norm: frozen; affine, without statistics; gn; or syncbn, whose stem and res2 are frozen.
            Pyramid and heads also have gn and syncbn, and otherwise no norm.
        deform: rows of offsets of res3 to res5, 18 or 27.
        convs: convolutions of the box head.
    """

    depth: int = 50
    features: str = "fpn"
    norm: str = "frozen"
    groups: int = 1
    deform: int = 0
    classes: int = 5
    rois: bool = True
    masks: bool = False
    keypoints: int = 0
    agnostic: bool = False
    convs: int = 0
    rpn_layers: int = 1
    one_stage: bool = False

    @property
    def bottom(self) -> str:
        """Prefix of the names of the backbone's layers."""
        return "backbone.bottom_up." if self.features == "fpn" else "backbone."

    @property
    def channels(self) -> int:
        """Channels of the maps that RPN and heads read."""
        return {"fpn": PYRAMID, "c4": 16 * STEM, "dc5": 32 * STEM}[self.features]

    @property
    def levels(self) -> range:
        """Stages that the pyramid reads."""
        return range(3 if self.one_stage else 2, 6)


FASTER = Model()
MASK = Model(masks=True)
HEAVY = replace(MASK, convs=4)
ZOO = {
    "faster R101 FPN": replace(FASTER, depth=101),
    "mask R50 FPN": MASK,
    "mask X101 32x8d FPN": replace(MASK, depth=101, groups=32),
    "faster R50 C4": replace(FASTER, features="c4"),
    "mask R50 C4": replace(MASK, features="c4"),
    "mask R50 DC5": replace(MASK, features="dc5"),
    "keypoint R50 FPN": replace(FASTER, keypoints=17, classes=1),
    "mask R50 GN": replace(HEAVY, norm="gn"),
    "mask R50 SyncBN": replace(HEAVY, norm="syncbn"),
    "mask R50 SyncBN of the new baselines": replace(HEAVY, norm="syncbn", rpn_layers=2),
    "mask R50 deformable": replace(MASK, deform=18),
    "mask R50 deformable v2": replace(MASK, deform=27),
    "mask R50 C4 deformable": replace(MASK, deform=18, features="c4"),
    "class-agnostic": replace(MASK, agnostic=True),
    "without statistics": replace(MASK, norm="affine"),
    "Cityscapes": replace(MASK, classes=8),
    "VOC": replace(FASTER, features="c4", classes=20),
    "LVIS": replace(MASK, classes=1203),
    "RPN R50 FPN": replace(FASTER, rois=False),
    "RPN R50 C4": replace(FASTER, rois=False, features="c4"),
    "RetinaNet R50": replace(FASTER, rois=False, one_stage=True),
}


def make_weights(model: Model, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights under detectron2's names."""
    zoo = _Layers(torch.Generator().manual_seed(seed))
    _add_backbone(zoo, model)
    if model.one_stage:
        _add_one_stage(zoo, model)
        return zoo.weights
    channels, anchors = model.channels, RATIOS * (1 if model.features == "fpn" else SIZES)
    name = "proposal_generator.rpn_head"
    for layer in range(model.rpn_layers):
        part = f"{name}.conv" if model.rpn_layers == 1 else f"{name}.conv.conv{layer}"
        zoo.add(part, (channels, channels, 3, 3))
    zoo.add(f"{name}.objectness_logits", (anchors, channels, 1, 1))
    zoo.add(f"{name}.anchor_deltas", (4 * anchors, channels, 1, 1))
    if model.rois:
        _add_heads(zoo, model)
    return zoo.weights


class _Layers:
    def __init__(self, generator: torch.Generator) -> None:
        self.weights: dict[str, Tensor] = {}
        self.generator = generator

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def add(self, name: str, shape: tuple[int, ...], norm: str = "", biased: int = 0) -> None:
        """Add a layer with a norm, or else with a bias of ``biased`` or ``shape[0]`` numbers."""
        fan_in = torch.Size(shape[1:]).numel()
        self.weights[f"{name}.weight"] = self.draw(*shape) / fan_in**0.5
        if not norm:
            self.weights[f"{name}.bias"] = self.draw(biased or shape[0])
            return
        # The last norm of a block is small, so that activations do not grow with depth.
        size = 0.3 if name.endswith("conv3") else 1.0
        self.weights[f"{name}.norm.weight"] = size * (1 + 0.2 * self.draw(shape[0]))
        self.weights[f"{name}.norm.bias"] = 0.2 * self.draw(shape[0])
        if norm in ("frozen", "syncbn"):
            self.weights[f"{name}.norm.running_mean"] = 0.1 * self.draw(shape[0])
            self.weights[f"{name}.norm.running_var"] = 0.5 + self.draw(shape[0]) ** 2
        if norm == "syncbn":
            self.weights[f"{name}.norm.num_batches_tracked"] = torch.tensor(7)


def _add_backbone(zoo: _Layers, model: Model) -> None:
    frozen = "frozen" if model.norm == "syncbn" else model.norm
    zoo.add(f"{model.bottom}stem.conv1", (STEM, 3, 7, 7), frozen)
    inside = STEM
    last = 5 if model.features != "c4" or model.rois else 4
    for stage in range(2, last + 1):
        prefix = "roi_heads." if model.features == "c4" and stage == 5 else model.bottom
        norm = frozen if stage == 2 else model.norm
        out = STEM << stage
        # 32 groups of 2 channels; the real model has 8.
        width = (64 if model.groups > 1 else STEM) << (stage - 2)
        for block in range(BLOCKS[model.depth][stage - 2]):
            name = f"{prefix}res{stage}.{block}"
            if block == 0:
                zoo.add(f"{name}.shortcut", (out, inside, 1, 1), norm)
            zoo.add(f"{name}.conv1", (width, inside, 1, 1), norm)
            if model.deform and stage > 2:
                zoo.add(f"{name}.conv2_offset", (model.deform, width, 3, 3))
            zoo.add(f"{name}.conv2", (width, width // model.groups, 3, 3), norm)
            zoo.add(f"{name}.conv3", (out, width, 1, 1), norm)
            inside = out
    if model.features == "fpn":
        norm = model.norm if model.norm in ("gn", "syncbn") else ""
        for level in model.levels:
            zoo.add(f"backbone.fpn_lateral{level}", (PYRAMID, STEM << level, 1, 1), norm)
            zoo.add(f"backbone.fpn_output{level}", (PYRAMID, PYRAMID, 3, 3), norm)


def _add_one_stage(zoo: _Layers, model: Model) -> None:
    zoo.add("backbone.top_block.p6", (PYRAMID, STEM << 5, 3, 3))
    zoo.add("backbone.top_block.p7", (PYRAMID, PYRAMID, 3, 3))
    for tower in ("cls_subnet", "bbox_subnet"):
        for layer in (0, 2, 4, 6):
            zoo.add(f"head.{tower}.{layer}", (PYRAMID, PYRAMID, 3, 3))
    zoo.add("head.cls_score", (9 * model.classes, PYRAMID, 3, 3))
    zoo.add("head.bbox_pred", (9 * 4, PYRAMID, 3, 3))


def _add_heads(zoo: _Layers, model: Model) -> None:
    norm = model.norm if model.norm in ("gn", "syncbn") else ""
    channels = 32 * STEM if model.features == "c4" else HIDDEN
    if model.features != "c4":
        inside = model.channels
        for layer in range(1, model.convs + 1):
            zoo.add(f"roi_heads.box_head.conv{layer}", (HEAD, inside, 3, 3), norm)
            inside = HEAD
        inside *= 49
        for layer in (1,) if model.convs else (1, 2):
            zoo.add(f"roi_heads.box_head.fc{layer}", (HIDDEN, inside))
            inside = HIDDEN
    boxes = 1 if model.agnostic else model.classes
    zoo.add("roi_heads.box_predictor.cls_score", (model.classes + 1, channels))
    zoo.add("roi_heads.box_predictor.bbox_pred", (4 * boxes, channels))
    if model.masks:
        inside = model.channels
        for layer in range(1, 5) if model.features != "c4" else ():
            zoo.add(f"roi_heads.mask_head.mask_fcn{layer}", (HEAD, inside, 3, 3), norm)
            inside = HEAD
        inside = 32 * STEM if model.features == "c4" else HEAD
        zoo.add("roi_heads.mask_head.deconv", (inside, HEAD, 2, 2), biased=HEAD)
        zoo.add("roi_heads.mask_head.predictor", (boxes, HEAD, 1, 1))
    if model.keypoints:
        for layer in range(1, 9):
            inside = model.channels if layer == 1 else HEAD
            zoo.add(f"roi_heads.keypoint_head.conv_fcn{layer}", (HEAD, inside, 3, 3))
        shape = (HEAD, model.keypoints, 4, 4)
        zoo.add("roi_heads.keypoint_head.score_lowres", shape, biased=model.keypoints)
