"""Conventions that differ between ecosystems: what weights assume of the code around them.

When weights are loaded for inference, they decide these settings and others that belong to them.
``model/weights/setting_origins.py`` lists who decides each setting of a model.
"""

from typing import Literal

from pydantic import Field

from model.config.settings import NonNegative, PositiveFloat, Settings

ResizeRounding = Literal["nearest", "floor", "down"]
"""How the sides of a resized image are rounded; see ``model.preprocess.resized_size``."""

NORM_EPSILON = 1e-5
"""Epsilon of norms in torch, Caffe2 and every library here.

In pyramid and heads it never differs. In the backbone it is a convention, because some weights were
trained without an epsilon.
"""


class Conventions(Settings):
    """What a set of weights assumes; saved with the weights and restored with them."""

    pixel_order: Literal["rgb", "bgr"] = Field("rgb", description="Channel order of the input.")
    pixel_mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53),
        description="Mean subtracted from each channel, on a 0..255 scale, in pixel_order.",
    )
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (58.395, 57.12, 57.375),
        description="Divisor of each channel, on a 0..255 scale, in pixel_order.",
    )
    stride_in_1x1: bool = Field(
        False,
        description="Put the stride of a bottleneck in its first 1x1 convolution (Detectron's "
        "ResNet-50 and 101), not in the 3x3.",
    )
    dilate_first_block: bool = Field(
        False,
        description="dc5: also dilate the 3x3 convolution of res5's first block (detectron2; not "
        "torchvision).",
    )
    norm_epsilon: float = Field(
        NORM_EPSILON, ge=0.0, description="Epsilon of the backbone's normalization layers."
    )
    round_anchors: bool = Field(
        False, description="Round the base anchors to whole pixels (torchvision)."
    )
    anchor_stride: Literal["level", "grid"] = Field(
        "level",
        description="level: anchors are 4, 8 .. 64 pixels apart; grid: canvas // cells apart "
        "(torchvision; 61 pixels for the 13 cells of P6 on 800 pixels).",
    )
    roi_aligned: bool = Field(
        True,
        description="Shift ROI align by half a pixel (detectron2); false: do not (torchvision).",
    )
    roi_sampling_ratio: NonNegative = Field(
        2, description="Samples per ROI bin along each axis; 0 adapts to the size of the ROI."
    )
    relu_before_p7: bool = Field(
        True,
        description="RetinaNet: apply a ReLU to P6 before P7 is made from it, as in the paper; "
        "false: do not (MMDetection).",
    )
    rpn_smooth_l1_beta: float = Field(
        1 / 9, ge=0.0, description="Beta of the RPN's smooth L1 box loss; 0 is plain L1."
    )
    box_smooth_l1_beta: float = Field(
        1.0, ge=0.0, description="Beta of the box head's smooth L1 loss; 0 is plain L1."
    )
    mask_targets: Literal["polygon", "roi_align"] = Field(
        "polygon",
        description="polygon: rasterize the mask targets inside the ROI; roi_align: average them "
        "from a bitmap of the image.",
    )
    keypoint_coordinates: Literal["continuous", "pixel_numbers"] = Field(
        "continuous",
        description="Coordinates that the keypoint head learns: continuous: the center of pixel 0 "
        "is 0.5 (detectron2); pixel_numbers: it is 0, in pixels of the original image (Detectron, "
        "maskrcnn-benchmark, torchvision).",
    )
    mask_paste: Literal["padded", "grid"] = Field(
        "padded",
        description="padded: pad masks with a border of zeros and resize them to whole pixels "
        "(torchvision, maskrcnn-benchmark); grid: sample masks at the pixel centers (detectron2).",
    )
    resize_rounding: ResizeRounding = Field(
        "nearest",
        description="Rounding of a resized image's sides: nearest: both to the nearest pixel; "
        "floor: both down (torchvision); down: the short side is exact, the long side is rounded "
        "down (maskrcnn-benchmark).",
    )
    resize_filter: Literal["antialias", "bilinear"] = Field(
        "antialias",
        description="antialias: resize images as Pillow does, rounding to integers; bilinear: in "
        "inference, interpolate between two pixels at any scale, without rounding, as torch and "
        "OpenCV do (torchvision, Detectron).",
    )
    legacy_geometry: bool = Field(
        False,
        description="Boxes include their last pixel: the width is x2 - x1 + 1. Anchors are rounded "
        "for a square of the stride, then scaled, and centered in that square. In training, "
        "anchors that cross the image border are ignored, and post_nms_train limits the whole "
        "batch (Detectron, maskrcnn-benchmark).",
    )

    @property
    def keypoint_origin(self) -> float:
        """Position of the head's coordinate 0, in pixels of the original image."""
        return 0.5 if self.keypoint_coordinates == "pixel_numbers" else 0.0


TORCHVISION = Conventions(
    round_anchors=True,
    anchor_stride="grid",
    roi_aligned=False,
    norm_epsilon=0.0,
    box_smooth_l1_beta=1 / 9,
    mask_targets="roi_align",
    resize_rounding="floor",
    resize_filter="bilinear",
    keypoint_coordinates="pixel_numbers",
)
"""torchvision's ``maskrcnn_resnet50_fpn`` with its COCO weights (v1)."""

DETECTRON2 = Conventions(
    pixel_order="bgr",
    pixel_mean=(103.53, 116.28, 123.675),
    pixel_std=(1.0, 1.0, 1.0),
    stride_in_1x1=True,
    norm_epsilon=NORM_EPSILON,
    round_anchors=False,
    anchor_stride="level",
    roi_aligned=True,
    roi_sampling_ratio=0,
    dilate_first_block=True,
    rpn_smooth_l1_beta=0.0,
    box_smooth_l1_beta=0.0,
    mask_targets="polygon",
    mask_paste="grid",
    keypoint_coordinates="continuous",
)
"""The defaults of detectron2's configs, with the ImageNet backbones of the ResNet authors."""

DETECTRON = Conventions(
    pixel_order="bgr",
    pixel_mean=(102.9801, 115.9465, 122.7717),
    pixel_std=(1.0, 1.0, 1.0),
    stride_in_1x1=True,
    norm_epsilon=0.0,
    round_anchors=False,
    anchor_stride="level",
    roi_aligned=False,
    roi_sampling_ratio=2,
    rpn_smooth_l1_beta=1 / 9,
    box_smooth_l1_beta=1.0,
    mask_targets="polygon",
    mask_paste="padded",
    resize_rounding="nearest",
    resize_filter="bilinear",
    keypoint_coordinates="pixel_numbers",
    legacy_geometry=True,
)
"""Detectron (Caffe2); images are resized with OpenCV."""

MASKRCNN_BENCHMARK = DETECTRON.model_copy(
    update={"resize_rounding": "down", "resize_filter": "antialias"}
)
"""maskrcnn-benchmark: as Detectron, but images are resized with Pillow."""

MMDETECTION = Conventions(
    stride_in_1x1=False,
    norm_epsilon=NORM_EPSILON,
    round_anchors=False,
    anchor_stride="level",
    roi_aligned=True,
    roi_sampling_ratio=0,
    dilate_first_block=True,
    relu_before_p7=False,
    rpn_smooth_l1_beta=0.0,
    box_smooth_l1_beta=0.0,
    mask_targets="roi_align",
    mask_paste="grid",
    resize_rounding="nearest",
    resize_filter="bilinear",
)
"""MMDetection 2 and 3 with torchvision's ImageNet backbones; images are resized with OpenCV."""
