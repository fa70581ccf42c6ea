"""detectron2's Faster, Mask and Keypoint R-CNN, its RPN and RetinaNet, and ImageNet backbones.

On ResNet and ResNeXt with a pyramid, C4 or dilated C5. Its order of classes and anchors is not
ours: see ``detectron2_rows``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from model.config import DETECTRON2, BoxHeadConfig, Conventions, ModelConfig
from model.weights.architecture.detector import describe_detector, is_whole_detector, stated
from model.weights.conversion import Conversion, StoredWeights, rename_tensors
from model.weights.detectron2.names import UNBUILT, UNNEEDED, renames
from model.weights.detectron2.rows import (
    background_first,
    identity_statistics,
    is_group_normed,
    ratios_outside,
)
from model.weights.legacy import refuse_unbuilt
from model.weights.report import WeightsError

_AUTHOR_OF_RGB_BACKBONES = "torchvision"
_RGB = {
    "pixel_order": "rgb",
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
    "stride_in_1x1": False,
}
# Of the ImageNet backbones that are not the ResNet authors', in BGR.
_STD_OF_OTHERS = (57.375, 57.12, 58.395)
# Its configs for LVIS, v0.5 and v1, whose scores are low.
_LVIS_CLASSES = (1230, 1203)
_LVIS_BOX = {"score_threshold": 1e-4, "detections_per_image": 300}


def is_detectron2(stored: StoredWeights) -> bool:
    """Whether these are weights of detectron2, or a backbone in its format."""
    names = stored.tensors
    return any(
        f"{prefix}stem.conv1.weight" in names and f"{prefix}res2.0.conv1.weight" in names
        for prefix in ("", "backbone.", "backbone.bottom_up.")
    ) or any(name.startswith(("proposal_generator.", "head.cls_subnet.")) for name in names)


def convert_detectron2(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """Under our names.

    Args:
        stored: what :func:`is_detectron2` recognised.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    refuse_unbuilt(stored.tensors, UNBUILT)
    renamed = rename_tensors(stored.tensors, renames(stored.tensors), UNNEEDED)
    tensors = renamed.tensors
    group_normed = is_group_normed(tensors, config)
    conventions, assumed = _conventions(stored, tensors, group_normed)
    tensors.update(background_first(tensors))
    tensors.update(ratios_outside(tensors, config))
    if not group_normed:
        tensors.update(identity_statistics(tensors, conventions.norm_epsilon))
    base, notes = _with_its_settings(tensors, config)
    if "roi_heads.keypoint.upsample.weight" in tensors:
        # Keypoints suffered from plain L1.
        conventions = conventions.model_copy(update={"box_smooth_l1_beta": 0.5})
    conversion = describe_detector("detectron2", renamed, conventions, base)
    return replace(conversion, assumed=(*assumed, *notes))


def _conventions(
    stored: StoredWeights, tensors: Mapping[str, Tensor], group_normed: bool
) -> tuple[Conventions, tuple[str, ...]]:
    """What the file says of its pixels, else what detectron2's configs say, and that we guessed."""
    if stored.author == _AUTHOR_OF_RGB_BACKBONES:
        return DETECTRON2.model_copy(update=_RGB), ()
    mean, std = stored.tensors.get("pixel_mean"), stored.tensors.get("pixel_std")
    middle = tensors.get("backbone.layer1.0.conv2.weight")
    grouped = middle is not None and middle.ndim == 4 and middle.shape[0] != middle.shape[1]
    trained = group_normed or any(name.endswith("num_batches_tracked") for name in tensors)
    if mean is None or std is None:
        # The stride is in the 1x1 of the ResNet authors' backbones, and of no others.
        rules: dict[str, Any] = {"stride_in_1x1": not (grouped or trained)}
        if grouped:
            rules["pixel_std"] = _STD_OF_OTHERS
        place = "3x3" if grouped or trained else "1x1"
        return DETECTRON2.model_copy(update=rules), (
            f"BGR pixels less (103.53, 116.28, 123.675), strides in the {place} convolutions: "
            "detectron2's defaults; a model on torchvision's backbone has others, which config= "
            "can state",
        )
    means, stds = mean.flatten().tolist(), std.flatten().tolist()
    if len(means) != 3 or len(stds) != 3 or min(stds) <= 0:
        raise WeightsError(f"pixel_mean {means} and pixel_std {stds} are not of three channels")
    # Photographs are yellowish: red's mean is the largest, blue's the smallest.
    rgb = means[0] > means[2]
    pixels = {
        "pixel_order": "rgb" if rgb else "bgr",
        "pixel_mean": tuple(round(value, 4) for value in means),
        "pixel_std": tuple(round(value, 4) for value in stds),
        # The backbones with a deviation of 1 are those whose stride is in the 1x1.
        "stride_in_1x1": stds == [1.0, 1.0, 1.0] and not (grouped or trained),
    }
    return DETECTRON2.model_copy(update=pixels), (
        f"{pixels['pixel_order']} pixels and the stride's place, from pixel_mean and pixel_std",
    )


def _with_its_settings(
    tensors: Mapping[str, Tensor], config: ModelConfig
) -> tuple[ModelConfig, tuple[str, ...]]:
    """``config`` with what detectron2's configs set for such a model, but for what it states."""
    if not is_whole_detector(tensors):
        return config, ()
    has_pyramid = any(name.startswith("fpn.") for name in tensors)
    alone = not any(name.startswith("roi_heads.") for name in tensors)
    has_keypoints = "roi_heads.keypoint.upsample.weight" in tensors
    notes: list[str] = []
    update: dict[str, Any] = {}
    # 1000 proposals per image in training, against Detectron's 2000.
    proposals = {"post_nms_train": 1500 if has_keypoints else 1000}
    if not has_pyramid:
        proposals = {"pre_nms_train": 12000, "pre_nms_test": 12000 if alone else 6000}
        if "backbone.layer4.0.conv1.weight" in tensors:
            # Its only detectors without a pyramid that pool from res5 dilate it.
            features = {"features": "dc5"} | stated(config.backbone)
            update["backbone"] = config.backbone.model_copy(update=features)
            notes.append("res5 is dilated, as in all of detectron2's models that pool from it")
    if alone:
        proposals["post_nms_test"] = 2000
    update["rpn"] = config.rpn.model_copy(update=proposals | stated(config.rpn))
    classes = len(tensors.get("roi_heads.box.class_logits.bias", ())) - 1
    if classes in _LVIS_CLASSES:
        box = config.box or BoxHeadConfig()
        update["box"] = box.model_copy(update=_LVIS_BOX | stated(box))
        notes.append(f"{classes} classes are LVIS's: scores from 0.0001 and 300 detections")
    return config.model_copy(update=update), tuple(notes)
