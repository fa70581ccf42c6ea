"""MMDetection's Faster and Mask R-CNN, RPN and RetinaNet, of versions 2 and 3.

On ResNet and ResNeXt with a pyramid, C4 or dilated C5. The background is the last class and the
anchors of a cell are ordered by ratio first, as ours. Conventions and thresholds are read from the
training config that the file keeps; without it they are assumed from the tensors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from model.config import (
    MMDETECTION,
    BoxHeadConfig,
    Conventions,
    MaskHeadConfig,
    ModelConfig,
    RetinaNetConfig,
)
from model.structures import Category
from model.weights.architecture.backbone import (
    RES5_OF_BOX_HEAD,
    has_pyramid,
    infer_norm,
    is_resnext,
)
from model.weights.architecture.detector import finish_conversion
from model.weights.architecture.heads import has_roi_heads
from model.weights.coco_categories import coco_categories
from model.weights.conversion import (
    ConvertedWeights,
    RenamedTensors,
    check_dimensions,
    refuse_unsupported,
    rename_tensors,
)
from model.weights.detectron2.rows import move_background_first
from model.weights.mmdetection.config_text import Tree, parse_config_text, value_at
from model.weights.mmdetection.names import IGNORED, UNSUPPORTED, renames_from
from model.weights.mmdetection.training_config import (
    list_differences,
    read_conventions_stated,
    read_settings_stated,
    refuse_other_math,
)
from model.weights.report import WeightsError
from model.weights.stated_settings import replace_settings, stated_settings
from model.weights.storage.weights_file import StoredWeights

_BGR: dict[str, Any] = {"pixel_order": "bgr", "pixel_mean": (103.53, 116.28, 123.675)}
# The backbones of the ResNet authors ("caffe" in MMDetection), and Detectron's group norm.
_UNSCALED = {**_BGR, "pixel_std": (1.0, 1.0, 1.0)}
# ResNeXt-101-32x8d, the only ResNeXt of FAIR's here; its groups have 8 channels in res2.
_FAIR_RESNEXT = {**_BGR, "pixel_std": (57.375, 57.12, 58.395)}
_FAIR_GROUP_WIDTH = 8
# LVIS v0.5 and v1, for which MMDetection's configs keep low scores.
_LVIS_CLASSES = (1230, 1203)
_LVIS = {"box.score_threshold": 1e-4, "box.detections_per_image": 300}
_COUNTER = "num_batches_tracked"

_APPROXIMATION = (
    "MMDetection rounds resized pixels to whole numbers, runs NMS on boxes in pixels of the "
    "original image, and lets no box shrink below 1/62 of its anchor; this detector does not"
)


def is_mmdetection(stored: StoredWeights) -> bool:
    """Return whether these are weights of a detector of MMDetection."""
    parts = ("neck.", "rpn_head.", "roi_head.", "bbox_head.")
    has_backbone = any(name.startswith("backbone.") for name in stored.tensors)
    return has_backbone and any(name.startswith(parts) for name in stored.tensors)


def convert_mmdetection(stored: StoredWeights, config: ModelConfig) -> ConvertedWeights:
    """Convert weights of MMDetection.

    Args:
        stored: what :func:`is_mmdetection` recognizes.
        config: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the architecture is not supported.
    """
    if any(name.startswith("bbox_head.fc_cls.") for name in stored.tensors):
        raise WeightsError(
            "weights of MMDetection 1 are not supported, because its boxes include their last "
            "pixel; train with version 2 or 3"
        )
    refuse_unsupported(stored.tensors, UNSUPPORTED)
    text = stored.meta.get("config", stored.meta.get("cfg"))
    tree = parse_config_text(text)
    renamed = rename_tensors(stored.tensors, renames_from(stored.tensors), IGNORED)
    check_dimensions(renamed, "backbone.")
    tensors = renamed.tensors
    if tree is None or value_at(tree["model"], "backbone.norm_eval") is not False:
        _drop_counters_of_fixed_norms(renamed)
    conventions, notes = _infer_conventions(tensors, tree, text is not None)
    move_background_first(tensors)
    settings = _default_settings(tensors)
    if tree is not None:
        settings |= read_settings_stated(tree)
        notes += list_differences(tree)
    base = _with_every_head(config)
    stated = stated_settings(base)
    base = replace_settings(base, {k: v for k, v in settings.items() if k not in stated})
    converted = finish_conversion("MMDetection", renamed, conventions, base)
    if converted.config is None:
        return converted
    categories = _read_categories(stored.meta, converted.config.num_classes)
    return replace(
        converted,
        categories=categories or converted.categories,
        assumptions=notes,
        approximations=(_APPROXIMATION,),
    )


def _infer_conventions(
    tensors: Mapping[str, Tensor], tree: Tree | None, has_text: bool
) -> tuple[Conventions, tuple[str, ...]]:
    """Return the conventions that the file's config states, or those of a model like it, and notes.

    Args:
        tensors: under our names.
        tree: the file's training config; None if there is none, or it cannot be read.
        has_text: whether the file has something in its place.
    """
    if tree is not None:
        refuse_other_math(tree)
        stated = read_conventions_stated(tree)
        update = {key.removeprefix("conventions."): value for key, value in stated.items()}
        return MMDETECTION.model_copy(update=update), ()
    update = {}
    if is_resnext(tensors):
        if tensors["backbone.layer1.0.conv2.weight"].shape[1] == _FAIR_GROUP_WIDTH:
            update = _FAIR_RESNEXT
    elif infer_norm(tensors, "backbone.bn1") == "group_norm":
        update = _UNSCALED
    elif _has_folded_norms(tensors):
        update = {**_UNSCALED, "stride_in_1x1": True}
    conventions = MMDETECTION.model_copy(update=update)
    mean = ", ".join(str(value) for value in conventions.pixel_mean)
    reason = "cannot be read" if has_text else "is not in the file"
    return conventions, (
        f"the training config {reason}; assumed {conventions.pixel_order} pixels less ({mean}), "
        f"strides in the {'1x1' if conventions.stride_in_1x1 else '3x3'} convolutions, and the "
        "anchors and thresholds of MMDetection's COCO configs: state others as "
        "conventions={'pixel_order': 'rgb', ...}",
    )


def _has_folded_norms(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the first norm has the statistics 0 and 1, as in converted Caffe backbones.

    Their statistics were folded into the affine map, and MMDetection does not train them.
    """
    mean, variance = (tensors.get(f"backbone.bn1.running_{kind}") for kind in ("mean", "var"))
    if mean is None or variance is None or mean.any():
        return False
    return bool(variance.float().allclose(torch.ones_like(variance).float(), atol=1e-3))


def _drop_counters_of_fixed_norms(renamed: RenamedTensors) -> None:
    """Ignore the counters of the backbone's batch norms, whose statistics are not trained.

    MMDetection sets ``norm_eval`` for them, except where pyramid and heads have batch norms too.
    With a counter, a norm would be taken for one whose statistics are trained.
    """
    counters = [name for name in renamed.tensors if name.endswith(_COUNTER)]
    if not all(name.startswith(("backbone.", f"{RES5_OF_BOX_HEAD}.")) for name in counters):
        return
    for name in counters:
        del renamed.tensors[name]
        original = renamed.original_names.pop(name, name)
        renamed.ignored[original] = "counter of a norm whose statistics are fixed"


def _default_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the settings of MMDetection's configs for such a model."""
    settings: dict[str, Any] = {"input.size_divisor": 32, "rpn.post_nms_train": 1000}
    if not has_pyramid(tensors):
        settings |= {"rpn.pre_nms_train": 12000, "rpn.post_nms_train": 2000}
        settings |= {"rpn.pre_nms_test": 6000}
        if "backbone.layer4.0.conv1.weight" in tensors:
            settings["backbone.features"] = "dc5"
    elif not has_roi_heads(tensors):
        settings["rpn.pre_nms_test"] = 2000
    if len(tensors.get("roi_heads.box.class_logits.bias", ())) - 1 in _LVIS_CLASSES:
        settings |= _LVIS
    return settings


def _with_every_head(config: ModelConfig) -> ModelConfig:
    """Return the config with a section for every head that MMDetection has."""
    return config.model_copy(
        update={
            "box": config.box or BoxHeadConfig(),
            "mask": config.mask or MaskHeadConfig(),
            "retinanet": config.retinanet or RetinaNetConfig(),
        }
    )


def _read_categories(meta: Mapping[str, Any], classes: int) -> Sequence[Category]:
    """Return the classes that the file names; none if it does not name as many as it has.

    COCO's classes get COCO's ids, others are numbered.
    """
    dataset = meta.get("dataset_meta")
    sources = [meta, *([dataset] if isinstance(dataset, Mapping) else [])]
    for names in (source.get(key) for source in sources for key in ("CLASSES", "classes")):
        if isinstance(names, str):
            names = (names,)  # ("person") without a comma
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            if len(names) != classes:
                continue
            coco = coco_categories()
            if [category.name for category in coco] == list(names):
                return coco
            return [Category(number, name) for number, name in enumerate(names, start=1)]
    return ()
