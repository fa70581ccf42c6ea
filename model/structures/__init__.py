"""The data that passes between the parts of the detector: frozen dataclasses of tensors.

Shape letters, the same in every module of ``model``:

    B  images of a batch                  K  object classes; label 0 is the background
    G  ground-truth objects of a batch    A  anchors of one image, A_l of them on level l
    R  ROIs of a batch                    L  levels of the feature pyramid
    D  detections of a batch              C  channels
    S  sampled anchors or ROIs per image  M  side of a mask or keypoint heatmap
    P  keypoints of an object             H W  height and width, pixels or feature-map cells
    N  anything else, said where it is used

Boxes are x1 y1 x2 y2 in absolute pixels with continuous coordinates: a box of one pixel has
x2 - x1 = 1. Labels are 1..K, as in maskrcnn-benchmark and torchvision.
"""

from model.structures.batch_targets import BatchTargets, join_targets
from model.structures.images import ImageBatch, ImageSize
from model.structures.mask_runs import MaskRuns
from model.structures.masks import (
    BitmapMasks,
    InstanceMasks,
    MixedMasks,
    PolygonMasks,
    RunLengthMasks,
)
from model.structures.proposals import Proposals
from model.structures.targets import Category, LossTerm, Targets

__all__ = [
    "BatchTargets",
    "BitmapMasks",
    "Category",
    "ImageBatch",
    "ImageSize",
    "InstanceMasks",
    "LossTerm",
    "MaskRuns",
    "MixedMasks",
    "PolygonMasks",
    "Proposals",
    "RunLengthMasks",
    "Targets",
    "join_targets",
]
