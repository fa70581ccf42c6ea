"""torchvision's Faster and Mask R-CNN on ResNet-FPN, and its plain ResNets, under our names."""

import re
from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from model.backbones.resnet import BLOCKS
from model.config import TORCHVISION, Conventions, MaskHeadConfig, ModelConfig
from model.structures import Category
from model.weights.report import WeightsError

# Older files name the layers of FPN, RPN and mask head without the ".0" of later ones.
_RENAMES = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)(\.0)?\.", r"fpn.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)(\.0)?\.", r"fpn.output.\1."),
    (r"^rpn\.head\.conv(\.0\.0)?\.", "rpn.head.conv."),
    (r"^rpn\.head\.cls_logits\.", "rpn.head.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.head.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.fc2."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.class_logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.box_deltas."),
    (r"^roi_heads\.mask_head\.(\d)\.0\.", r"mask_head.convs.\1."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.logits."),
)
_PLAIN_RESNET = re.compile(r"^(conv1|bn1|layer[1-4]\.\d+)\.")


def is_torchvision_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a torchvision R-CNN on an FPN."""
    return "backbone.body.conv1.weight" in state and "backbone.fpn" in " ".join(state)


def is_torchvision_backbone(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a plain ResNet, such as a classifier's."""
    return "conv1.weight" in state and "layer1.0.conv1.weight" in state


def rename_detector(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision detector's tensors under our names; what we do not know keeps its name."""
    return {_rename(name): tensor for name, tensor in state.items()}


def rename_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain ResNet's tensors under our names; the classifier keeps its own."""
    return {
        f"backbone.{name}" if _PLAIN_RESNET.match(name) else name: tensor
        for name, tensor in state.items()
    }


def infer_config(state: Mapping[str, Tensor], config: ModelConfig) -> ModelConfig:
    """``config`` with the architecture and the conventions that torchvision's weights imply.

    Conventions that ``config`` states explicitly stay.

    Args:
        state: a torchvision detector's tensors, under their own names.
        config: what the weights cannot tell: input sizes, thresholds.

    Raises:
        WeightsError: an architecture that we do not build, such as the v2 heads.
    """
    if "roi_heads.box_head.fc6.weight" not in state:
        raise WeightsError(
            "torchvision weights without roi_heads.box_head.fc6: only the detectors with two fully "
            "connected layers (fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn) are supported, "
            "not their v2"
        )
    trained_norm = "backbone.body.bn1.num_batches_tracked" in state
    stem = state["backbone.body.conv1.weight"]
    backbone = config.backbone.model_copy(
        update={
            "depth": _depth(state),
            "norm": "batch_norm" if trained_norm else "frozen_bn",
            "width": stem.shape[0],
            "fpn_channels": state["roi_heads.box_head.fc6.weight"].shape[1] // 49,
        }
    )
    hidden = state["roi_heads.box_head.fc6.weight"].shape[0]
    classes = state["roi_heads.box_predictor.cls_score.weight"].shape[0]
    return config.model_copy(
        update={
            "num_classes": classes - 1,
            "conventions": _conventions(config, trained_norm),
            "backbone": backbone,
            "box": config.box.model_copy(update={"hidden": hidden, "pool_side": 7}),
            "mask": _mask(state, config.mask),
        }
    )


def coco_categories() -> list[Category]:
    """The 90 sparse COCO ids that torchvision's detectors were trained on, unused ones too."""
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [Category(number, name) for number, name in enumerate(names) if number > 0]


def _conventions(config: ModelConfig, trained_norm: bool) -> Conventions:
    stated = {
        name: getattr(config.conventions, name) for name in config.conventions.model_fields_set
    }
    # v1 weights were made when FrozenBatchNorm2d added no epsilon; BatchNorm2d always did.
    implied = {"norm_epsilon": 1e-5} if trained_norm else {}
    return TORCHVISION.model_copy(update=implied | stated)


def _mask(state: Mapping[str, Tensor], mask: MaskHeadConfig | None) -> MaskHeadConfig | None:
    predictor = state.get("roi_heads.mask_predictor.conv5_mask.weight")
    if predictor is None:
        return None
    renamed = {_rename(name) for name in state}
    layers = sum(f"mask_head.convs.{layer}.weight" in renamed for layer in range(32))
    update = {"channels": predictor.shape[1], "layers": layers, "pool_side": 14}
    return (mask or MaskHeadConfig()).model_copy(update=update)


def _depth(state: Mapping[str, Tensor]) -> int:
    blocks = tuple(
        len({name.split(".")[3] for name in state if name.startswith(f"backbone.body.layer{s}.")})
        for s in range(1, 5)
    )
    bottleneck = "backbone.body.layer1.0.conv3.weight" in state
    for depth, known in BLOCKS.items():
        if known == blocks and (depth >= 50) == bottleneck:
            return depth
    raise WeightsError(f"a ResNet with {blocks} blocks per stage is none of {sorted(BLOCKS)}")


def _rename(name: str) -> str:
    name = re.sub(
        r"^roi_heads\.mask_head\.mask_fcn(\d)\.",
        lambda match: f"mask_head.convs.{int(match[1]) - 1}.",
        name,
    )
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
