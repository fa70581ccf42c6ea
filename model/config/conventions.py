"""What a set of weights takes for granted."""

from typing import Literal

from pydantic import Field

from model.config.settings import NonNegative, PositiveFloat, Settings


class Conventions(Settings):
    """What a set of weights takes for granted; stored with the weights and restored with them."""

    pixel_order: Literal["rgb", "bgr"] = Field("rgb", description="Channel order of the input.")
    pixel_mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53), description="Subtracted per channel, in 0..255, in pixel_order."
    )
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (58.395, 57.12, 57.375), description="Divisor per channel, in 0..255, in pixel_order."
    )
    stride_in_1x1: bool = Field(
        False, description="Bottleneck stride in the 1x1 convolution (Detectron R-50/101)."
    )
    dilate_first_block: bool = Field(
        False,
        description="dc5: the first 3x3 convolution of res5 is dilated as the others are "
        "(detectron2); False: it is not (torchvision).",
    )
    norm_epsilon: float = Field(1e-5, ge=0.0, description="Epsilon of the backbone's norm layers.")
    round_anchors: bool = Field(
        False, description="Round the base anchors to whole pixels, as torchvision does."
    )
    anchor_stride: Literal["level", "grid"] = Field(
        "level",
        description="level: 4, 8 .. 64 pixels; grid: canvas // cells, as torchvision (61 for the "
        "13 cells of P6 on 800 pixels).",
    )
    roi_aligned: bool = Field(
        True, description="ROI align with the half-pixel shift (detectron2); False: torchvision."
    )
    roi_sampling_ratio: NonNegative = Field(
        2, description="Samples per ROI bin and axis; 0 adapts to the ROI's size."
    )
    rpn_smooth_l1_beta: float = Field(1 / 9, ge=0.0, description="RPN box loss; 0 is plain L1.")
    box_smooth_l1_beta: float = Field(1.0, ge=0.0, description="Box head loss; 0 is plain L1.")
    mask_targets: Literal["polygon", "roi_align"] = Field(
        "polygon",
        description="Mask targets drawn inside the ROI, or averages of a bitmap of the image.",
    )
    keypoint_coordinates: Literal["continuous", "pixel_numbers"] = Field(
        "continuous",
        description="What the keypoint head learns: places where the middle of pixel 0 is 0.5 "
        "(detectron2), or numbers of pixels of the image as it was, which are half a pixel less "
        "(Detectron, maskrcnn-benchmark, torchvision).",
    )
    mask_paste: Literal["padded", "grid"] = Field(
        "padded",
        description="padded: masks get a border of zeros and are resized to whole pixels "
        "(torchvision, maskrcnn-benchmark); grid: pixels read them at their centres (detectron2).",
    )
    resize_rounding: Literal["nearest", "floor", "down"] = Field(
        "nearest",
        description="Sides of a resized image: nearest rounds both; floor rounds both down "
        "(torchvision); down takes the short side as it is and rounds the long one down "
        "(maskrcnn-benchmark).",
    )
    resize_filter: Literal["antialias", "bilinear"] = Field(
        "antialias",
        description="Pictures are resized as Pillow does, to whole levels; or, when predicting, as "
        "torch and OpenCV do, between two pixels whatever the scale, not rounded (torchvision, "
        "Detectron).",
    )
    legacy_geometry: bool = Field(
        False,
        description="Boxes end on their last pixel, so that x2 - x1 + 1 is a width; anchors are "
        "rounded on the stride's square and centred in it; in training, those that cross the "
        "border are left out and post_nms_train counts for a batch (Detectron, "
        "maskrcnn-benchmark).",
    )

    @property
    def keypoint_origin(self) -> float:
        """Where a keypoint that the head calls 0 is, in pixels of the image as it was."""
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
    norm_epsilon=1e-5,
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
"""Detectron (Caffe2)."""

MASKRCNN_BENCHMARK = DETECTRON.model_copy(
    update={"resize_rounding": "down", "resize_filter": "antialias"}
)
"""maskrcnn-benchmark: Detectron's, except that images are resized with Pillow, not OpenCV."""
