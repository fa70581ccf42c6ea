"""detectron2's Faster and Mask R-CNN on ResNet-FPN, and its ImageNet backbones.

The background is its last class, and boxes and masks have no row for it: ours is class 0, and its
rows there, which nothing reads, become zeros.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.config import Conventions, ModelConfig
from model.weights.architecture import describe_detector, stated
from model.weights.conversion import Conversion, Replacement, StoredWeights, rename_tensors
from model.weights.legacy import refuse_unbuilt
from model.weights.report import WeightsError

# Its configs' defaults: the ImageNet backbones of the ResNet paper's authors.
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
)
_AUTHOR_OF_RGB_BACKBONES = "torchvision"
_RGB = {
    "pixel_order": "rgb",
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
    "stride_in_1x1": False,
}
_TAIL = r"\.(weight|bias)"
_NORM_LAYERS = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "shortcut": "downsample.1"}


def _block(match: re.Match[str]) -> str:
    stage, block, layer, norm, kind = match.groups()
    ours = _NORM_LAYERS[layer] if norm else layer.replace("shortcut", "downsample.0")
    return f"backbone.layer{int(stage) - 1}.{block}.{ours}.{kind}"


def _less(template: str, by: int) -> Replacement:
    def name(match: re.Match[str]) -> str:
        return template.format(int(match[1]) - by, match[2])

    return name


# A backbone by itself has its names without the prefix.
_BODY = r"(?:backbone\.bottom_up\.)?"
_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (_BODY + r"stem\.conv1\.norm\.(\w+)", r"backbone.bn1.\1"),
    (_BODY + r"stem\.conv1\.weight", "backbone.conv1.weight"),
    (_BODY + r"res([2-5])\.(\d+)\.(conv[123]|shortcut)(\.norm)?\.(\w+)", _block),
    (r"backbone\.fpn_lateral(\d)" + _TAIL, _less("fpn.lateral.{}.{}", 2)),
    (r"backbone\.fpn_output(\d)" + _TAIL, _less("fpn.output.{}.{}", 2)),
    (r"proposal_generator\.rpn_head\.conv" + _TAIL, r"rpn.head.convs.0.\1"),
    (r"proposal_generator\.rpn_head\.objectness_logits" + _TAIL, r"rpn.head.objectness.\1"),
    (r"proposal_generator\.rpn_head\.anchor_deltas" + _TAIL, r"rpn.head.deltas.\1"),
    (r"roi_heads\.box_head\.fc(\d)" + _TAIL, r"roi_heads.box.fc\1.\2"),
    (r"roi_heads\.box_predictor\.cls_score" + _TAIL, r"roi_heads.box.class_logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred" + _TAIL, r"roi_heads.box.box_deltas.\1"),
    (r"roi_heads\.mask_head\.mask_fcn(\d)" + _TAIL, _less("roi_heads.mask.convs.{}.{}", 1)),
    (r"roi_heads\.mask_head\.deconv" + _TAIL, r"roi_heads.mask.upsample.\1"),
    (r"roi_heads\.mask_head\.predictor" + _TAIL, r"roi_heads.mask.logits.\1"),
)
_UNNEEDED = (
    (r"(proposal_generator\.)?anchor_generator\..*", "anchors follow from the config"),
    (r"pixel_(mean|std)", "kept as a convention"),
    (r"(stem\.fc|linear|fc1000)\.(weight|bias)", "ImageNet's classifier"),
)
_UNBUILT = {
    "roi_heads.keypoint_head.": "Keypoint R-CNN",
    "roi_heads.res5.": "a detector without a pyramid (C4)",
    "roi_heads.box_head.conv": "a box head of convolutions",
    "backbone.fpn_lateral2.norm": "a pyramid with norms",
    "head.cls_subnet": "RetinaNet",
    "roi_heads.box_head.0.": "Cascade R-CNN",
    "conv2_offset": "a deformable convolution",
    "panoptic": "panoptic segmentation",
    "sem_seg_head.": "panoptic segmentation",
}


def is_detectron2(stored: StoredWeights) -> bool:
    """Whether these are weights of detectron2, or a backbone in its format."""
    return any(
        f"{prefix}stem.conv1.weight" in stored.tensors
        and f"{prefix}res2.0.conv1.weight" in stored.tensors
        for prefix in ("", "backbone.bottom_up.")
    )


def convert_detectron2(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """Under our names.

    Args:
        stored: what :func:`is_detectron2` recognised.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    refuse_unbuilt(stored.tensors, _UNBUILT)
    renamed = rename_tensors(stored.tensors, _RENAMES, _UNNEEDED)
    conventions, assumed = _conventions(stored)
    renamed.tensors.update(_background_first(renamed.tensors))
    renamed.tensors.update(_identity_statistics(renamed.tensors, conventions.norm_epsilon))
    # 1000 proposals per image in training, against Detectron's 2000.
    proposals = {"post_nms_train": 1000} | stated(config.rpn)
    base = config.model_copy(update={"rpn": config.rpn.model_copy(update=proposals)})
    conversion = describe_detector("detectron2", renamed, conventions, base)
    return replace(conversion, assumed=assumed)


def _conventions(stored: StoredWeights) -> tuple[Conventions, tuple[str, ...]]:
    """What the file says of its pixels, else what detectron2's configs say, and that we guessed."""
    mean, std = stored.tensors.get("pixel_mean"), stored.tensors.get("pixel_std")
    if stored.author == _AUTHOR_OF_RGB_BACKBONES:
        return DETECTRON2.model_copy(update=_RGB), ()
    if mean is None or std is None:
        return DETECTRON2, (
            "BGR pixels less (103.53, 116.28, 123.675), strides in the 1x1 convolutions: "
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
        "stride_in_1x1": stds == [1.0, 1.0, 1.0],
    }
    return DETECTRON2.model_copy(update=pixels), (
        f"{pixels['pixel_order']} pixels and the stride's place, from pixel_mean and pixel_std",
    )


def _background_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = {}
    for kind in ("weight", "bias"):
        name = f"roi_heads.box.class_logits.{kind}"
        if name in tensors:
            result[name] = tensors[name].roll(1, 0)
        classes = len(tensors.get("roi_heads.box.class_logits.bias", ()))
        for layer, rows in (("roi_heads.box.box_deltas", 4), ("roi_heads.mask.logits", 1)):
            if f"{layer}.{kind}" in tensors:
                objects = tensors[f"{layer}.{kind}"]
                if len(objects) == rows and classes > 2:
                    continue  # one for all classes, the background too
                background = objects.new_zeros(rows, *objects.shape[1:])
                result[f"{layer}.{kind}"] = torch.cat((background, objects))
    return result


def _identity_statistics(tensors: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """Statistics for norms without, which are affine maps: mean 0, variance 1 less the epsilon."""
    result = {}
    for name, weight in tensors.items():
        match = re.fullmatch(r"(backbone\..*(?:bn\d|downsample\.1))\.weight", name)
        if match and f"{match[1]}.running_var" not in tensors:
            result[f"{match[1]}.running_mean"] = torch.zeros_like(weight)
            result[f"{match[1]}.running_var"] = torch.full_like(weight, 1.0 - epsilon)
    return result
