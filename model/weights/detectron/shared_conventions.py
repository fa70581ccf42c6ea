"""What Detectron and maskrcnn-benchmark have in common: conventions, default settings, boxes.

Tensors have our names.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import Conventions, ModelConfig, RetinaNetConfig
from model.config.conventions import NORM_EPSILON
from model.weights.architecture.backbone import has_pyramid, infer_norm, is_resnext
from model.weights.architecture.detector import is_whole_detector
from model.weights.architecture.retinanet import is_retinanet
from model.weights.stated_settings import explicit_settings, pad_to_multiple


def infer_conventions(tensors: Mapping[str, Tensor], resnet: Conventions) -> Conventions:
    """Return the conventions of the model that has these weights.

    ResNets with group norm and ResNeXts stride in their 3x3 convolutions; detectors without a
    pyramid adapt the number of samples per ROI bin to the ROI's size.

    Args:
        tensors: under our names.
        resnet: conventions of the library's models on the original ResNets.
    """
    update: dict[str, Any] = {}
    if infer_norm(tensors, "backbone.bn1") == "group_norm":
        update |= {"norm_epsilon": NORM_EPSILON, "stride_in_1x1": False}
    if is_resnext(tensors):
        update["stride_in_1x1"] = False
    if is_whole_detector(tensors) and not has_pyramid(tensors):
        update["roi_sampling_ratio"] = 0
    return resnet.model_copy(update=update)


def apply_default_settings(
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    retinanet: Mapping[str, Any],
    retinanet_divisor: int = 32,
) -> ModelConfig:
    """Return ``config`` with the settings that the library's configs have for such a model.

    Settings that ``config`` states explicitly are kept.

    Args:
        tensors: under our names.
        config: given by the user, or the default.
        retinanet: settings of the library's RetinaNet.
        retinanet_divisor: what the library pads images of RetinaNet to a multiple of.
    """
    if is_retinanet(tensors):
        given = config.retinanet or RetinaNetConfig()
        update = {**retinanet, **explicit_settings(given)}
        config = config.model_copy(update={"retinanet": given.model_copy(update=update)})
        return pad_to_multiple(config, retinanet_divisor)
    if has_pyramid(tensors):
        return pad_to_multiple(config, 32)
    proposals = {"pre_nms_train": 12000, "pre_nms_test": 6000} | explicit_settings(config.rpn)
    config = config.model_copy(update={"rpn": config.rpn.model_copy(update=proposals)})
    return pad_to_multiple(config, 1)


def drop_background_box(tensors: dict[str, Tensor]) -> None:
    """Remove the background's rows from a class-agnostic box predictor, in place.

    It has the rows of two boxes: the background's, which nothing reads, and the one that serves all
    classes.

    Args:
        tensors: under our names.
    """
    classes = len(tensors.get("roi_heads.box.class_logits.bias", ()))
    for name in ("roi_heads.box.box_deltas.weight", "roi_heads.box.box_deltas.bias"):
        # A predictor for one class looks the same. It is kept: it computes the same.
        if name in tensors and len(tensors[name]) == 8 and classes > 2:
            tensors[name] = tensors[name][4:]
