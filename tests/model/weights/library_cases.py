"""Weights of every library and kind of model, narrow, and the recipes of their kinds."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torchvision.models import detection

from model import ModelConfig, build_detector, save_detector
from model.config import (
    DETECTRON,
    DETECTRON2,
    MASKRCNN_BENCHMARK,
    MMDETECTION,
    TORCHVISION,
)
from model.config.settings import check_settings
from tests.model.weights.detectron import blobs
from tests.model.weights.detectron.model_layers import Layers
from tests.model.weights.detectron2 import zoo
from tests.model.weights.maskrcnn_benchmark import state_dicts
from tests.model.weights.mmdetection import training_configs
from tests.model.weights.mmdetection import zoo as mmdetection_zoo

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
# Recipes of each kind: COCO 2017 and the exact counterpart of maskrcnn-benchmark's.
RECIPES = {
    "faster": ("faster_rcnn_r50_fpn_1x", "coco_2014/faster_rcnn_r50_fpn_1x"),
    "mask": ("mask_rcnn_r50_fpn_1x", "coco_2014/mask_rcnn_r50_fpn_1x"),
    "mask C4": ("mask_rcnn_r50_c4_1x", "coco_2014/mask_rcnn_r50_c4_1x"),
    "mask DC5": ("mask_rcnn_r50_dc5_1x",),
    "keypoint": ("keypoint_rcnn_r50_fpn_1x", "coco_2014/keypoint_rcnn_r50_fpn_1x"),
    "retinanet": ("retinanet_r50_fpn_1x", "coco_2014/retinanet_r50_fpn_1x"),
    "retinanet P5": ("retinanet_r50_fpn_p5_1x",),
    "proposals": ("rpn_r50_fpn_1x", "coco_2014/rpn_r50_fpn_1x"),
    "proposals C4": ("rpn_r50_c4_1x",),
    "torchvision faster": ("torchvision/faster_rcnn_r50_fpn", "faster_rcnn_r50_fpn_1x"),
    "torchvision faster v2": ("torchvision/faster_rcnn_r50_fpn_v2",),
    "torchvision mask": ("torchvision/mask_rcnn_r50_fpn", "mask_rcnn_r50_fpn_1x"),
    "torchvision mask v2": ("torchvision/mask_rcnn_r50_fpn_v2",),
    "torchvision keypoint": ("torchvision/keypoint_rcnn_r50_fpn", "keypoint_rcnn_r50_fpn_1x"),
    "torchvision retinanet": ("torchvision/retinanet_r50_fpn", "retinanet_r50_fpn_p5_1x"),
    "torchvision retinanet v2": ("torchvision/retinanet_r50_fpn_v2",),
}


@dataclass(frozen=True)
class Case:
    """Weights of a library, and what is known of them.

    Args:
        library: that wrote them.
        kind: key of ``RECIPES``.
        divisor: what the library pads images of such a model to a multiple of.
        model: the builder's name of the model.
    """

    library: str
    kind: str
    divisor: int
    model: str = ""

    def __str__(self):
        return f"{self.library} {self.kind}"


CASES = [
    Case("detectron2", "faster", 32, "faster R101 FPN"),
    Case("detectron2", "mask", 32, "mask R50 FPN"),
    Case("detectron2", "mask C4", 1, "mask R50 C4"),
    Case("detectron2", "mask DC5", 1, "mask R50 DC5"),
    Case("detectron2", "keypoint", 32, "keypoint R50 FPN"),
    Case("detectron2", "retinanet", 32, "RetinaNet R50"),
    Case("detectron2", "proposals", 32, "RPN R50 FPN"),
    Case("detectron2", "proposals C4", 1, "RPN R50 C4"),
    Case("Detectron", "faster", 32, "faster class-agnostic"),
    Case("Detectron", "mask", 32),
    Case("Detectron", "mask C4", 1),
    Case("Detectron", "keypoint", 32),
    # FPN.COARSEST_STRIDE in its RetinaNet configs.
    Case("Detectron", "retinanet", 128),
    Case("Detectron", "proposals", 32),
    Case("Detectron", "proposals C4", 1),
    Case("maskrcnn-benchmark", "faster", 32, "faster class-agnostic"),
    Case("maskrcnn-benchmark", "mask", 32),
    Case("maskrcnn-benchmark", "mask C4", 1),
    Case("maskrcnn-benchmark", "keypoint", 32),
    Case("maskrcnn-benchmark", "retinanet", 32),
    Case("maskrcnn-benchmark", "retinanet P5", 32),
    Case("maskrcnn-benchmark", "proposals", 32),
    Case("maskrcnn-benchmark", "proposals C4", 1),
    Case("torchvision", "torchvision faster", 32, "fasterrcnn_resnet50_fpn"),
    Case("torchvision", "torchvision faster v2", 32, "fasterrcnn_resnet50_fpn_v2"),
    Case("torchvision", "torchvision mask", 32, "maskrcnn_resnet50_fpn"),
    Case("torchvision", "torchvision mask v2", 32, "maskrcnn_resnet50_fpn_v2"),
    Case("torchvision", "torchvision keypoint", 32, "keypointrcnn_resnet50_fpn"),
    Case("torchvision", "torchvision retinanet", 32, "retinanet_resnet50_fpn"),
    Case("torchvision", "torchvision retinanet v2", 32, "retinanet_resnet50_fpn_v2"),
    # Its configs pad all models to 32; some of these files have their training config.
    Case("MMDetection", "faster", 32, "faster R101"),
    Case("MMDetection", "mask", 32, "mask R50"),
    Case("MMDetection", "mask C4", 32, "mask C4 pytorch"),
    Case("MMDetection", "retinanet", 32, "RetinaNet R50"),
    Case("MMDetection", "proposals", 32, "RPN R50"),
    # Ours keep what was saved, here 16.
    *(Case("ours", kind, 16) for kind in ("faster", "mask", "mask C4", "mask DC5")),
    *(Case("ours", kind, 16) for kind in ("keypoint", "retinanet", "proposals", "proposals C4")),
]
LIBRARY_CONVENTIONS = {
    "detectron2": DETECTRON2,
    "Detectron": DETECTRON,
    "maskrcnn-benchmark": MASKRCNN_BENCHMARK,
    "torchvision": TORCHVISION,
    "MMDetection": MMDETECTION,
    "ours": DETECTRON2.model_copy(update={"mask_paste": "padded"}),
}


def our_config(kind):
    """Return a narrow detector of ours with settings that no library has."""
    backbone = {"depth": 50, "width": 8, "norm": "group_norm"}
    tree = {
        "num_classes": 2,
        "conventions": LIBRARY_CONVENTIONS["ours"].model_dump(),
        "input": {"short_side": 333, "size_divisor": 16},
        "fpn": {"channels": 32},
        "rpn": {"anchor_sizes": [8, 16, 32, 64, 128]},
        "box": {"hidden": 16, "delta_weights": [2.0, 2.0, 1.0, 1.0]},
        "mask": {"channels": 16},
    }
    if kind.endswith(("C4", "DC5")):
        backbone["features"] = kind.split()[-1].lower()
    if kind.endswith("C4"):
        tree["box"]["pool_side"] = 12
        tree["mask"]["layers"] = 0
    if kind.startswith(("faster", "keypoint", "retinanet", "proposals")):
        tree["mask"] = None
    if kind == "keypoint":
        tree["keypoint"] = {"names": ["left_tip", "right_tip"], "channels": 16}
    if kind.startswith(("retinanet", "proposals")):
        tree["box"] = None
    if kind == "retinanet":
        tree["retinanet"] = {"anchor_sizes": [8, 16, 32, 64, 128], "nms_iou": 0.45, "layers": 1}
    return check_settings(ModelConfig, tree | {"backbone": backbone})


def write_weights(case, folder):
    """Write the weights of a case, and return their path."""
    path, name = folder / "model.pth", case.model or case.kind
    match case.library:
        case "detectron2":
            torch.save({"model": zoo.make_weights(zoo.ZOO[name])}, path)
        case "Detectron":
            kind = blobs.KINDS[name]
            layers = Layers(kind, statistics=False)
            return blobs.write(folder / "model.pkl", blobs.make_blobs(kind, layers))
        case "maskrcnn-benchmark":
            kind = state_dicts.KINDS[name]
            state = state_dicts.make_state_dict(kind, Layers(kind, statistics=True))
            torch.save({"model": state}, path)
        case "MMDetection":
            kind = mmdetection_zoo.ZOO[name]
            text = training_configs.as_text(training_configs.version_3(kind))
            meta = {"cfg": text} if kind.masks else {}
            torch.save({"state_dict": mmdetection_zoo.make_weights(kind), "meta": meta}, path)
        case "torchvision":
            with torch.device("meta"):  # names and shapes are enough
                model = getattr(detection, name)(weights=None, weights_backbone=None)
            torch.save(model.state_dict(), path)
        case _:
            save_detector(build_detector(our_config(case.kind)), folder)
            return folder
    return path
