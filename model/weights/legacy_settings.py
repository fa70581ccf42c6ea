"""What the configs of Detectron and maskrcnn-benchmark set for each kind of model."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import Conventions, ModelConfig, RetinaNetConfig
from model.weights.architecture.backbone import infer_norm
from model.weights.architecture.detector import is_whole_detector, stated
from model.weights.architecture.retinanet import is_retinanet

# Of both; torch's and Caffe2's default too.
GROUP_NORM_EPSILON = 1e-5


def conventions_of_model(tensors: Mapping[str, Tensor], rules: Conventions) -> Conventions:
    """``rules`` of the models with the original ResNets, as the model of these weights has them.

    ResNets with group norm and ResNeXts stride in their 3x3 convolutions; detectors without a
    pyramid adapt the samples of a bin to the ROI.

    Args:
        tensors: under our names.
        rules: of the ecosystem.
    """
    update: dict[str, Any] = {}
    if infer_norm(tensors, "backbone.bn1") == "group_norm":
        update |= {"norm_epsilon": GROUP_NORM_EPSILON, "stride_in_1x1": False}
    middle = tensors.get("backbone.layer1.0.conv2.weight")
    if middle is not None and middle.shape[0] != middle.shape[1]:
        update["stride_in_1x1"] = False
    if is_whole_detector(tensors) and not _has_pyramid(tensors):
        update["roi_sampling_ratio"] = 0
    return rules.model_copy(update=update)


def with_settings_of_model(
    tensors: Mapping[str, Tensor], config: ModelConfig, retinanet: Mapping[str, Any]
) -> ModelConfig:
    """``config`` with what theirs set and the weights cannot tell; what it states itself stays.

    Args:
        tensors: under our names.
        config: given by the user, or the default.
        retinanet: settings of the ecosystem's RetinaNet.
    """
    if is_retinanet(tensors):
        given = config.retinanet or RetinaNetConfig()
        update = {**retinanet, **stated(given)}
        return config.model_copy(update={"retinanet": given.model_copy(update=update)})
    if _has_pyramid(tensors):
        return config
    proposals = {"pre_nms_train": 12000, "pre_nms_test": 6000} | stated(config.rpn)
    return config.model_copy(update={"rpn": config.rpn.model_copy(update=proposals)})


def _has_pyramid(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("fpn.") for name in tensors)
