"""Loading weights: a whole detector, or the parts that fit into a detector to be trained."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model.build import build_detector
from model.config import Conventions, ModelConfig
from model.config.settings import check_settings
from model.config.yaml_files import compose_yaml
from model.detector import Detector
from model.weights.adaptation import (
    adapt_to_conventions,
    list_other_settings,
    warn_about_folded_norms,
)
from model.weights.architecture.detector import is_whole_detector
from model.weights.class_rows import ClassRows, match_class_rows
from model.weights.conflicts import describe_overruled_weights
from model.weights.custom_backbone import name_backbone_tensors, pixel_conventions
from model.weights.fill import fill_detector
from model.weights.inference_config import read_for_inference
from model.weights.inference_settings import override_inference_settings
from model.weights.load_arguments import check_config, check_device, check_source
from model.weights.published.fetch import fetch_published
from model.weights.read import read_weights
from model.weights.report import LoadReport, WeightsError, shorten

_LOG = logging.getLogger(__name__)


def load_network(
    source: str | Path,
    config: str | Path | ModelConfig | None = None,
    device: str | torch.device = "cpu",
    *,
    conventions: Mapping[str, Any] | None = None,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    **overrides: float,
) -> Detector:
    """Load the network of a trained detector, in eval mode.

    Args:
        source: a folder that ``save_detector`` wrote, the folder of a run (for its newest
            checkpoint), or a file or its ``https://`` address: ours (.safetensors, .pth), or a
            detector of this family of torchvision, detectron2, Detectron, maskrcnn-benchmark or
            MMDetection; or ``"coco"`` for the weights that torchvision or detectron2 publish for
            the config's architecture, by default torchvision's Mask R-CNN R50-FPN.
        config: a YAML file with a ``model`` section, or a ModelConfig; only needed for a file of
            ours without its folder. For all others, its settings of inference (input size, score
            threshold ..) are used where it states them. Architecture and conventions are those of
            the weights, with a warning where the config states others:
            ``model/weights/setting_origins.py`` lists who decides which setting.
        device: where to put the detector.
        conventions: what the weights were trained with, if they are known wrongly: by name of a
            field of ``Conventions`` (``{"roi_aligned": False}``), or by dotted key of another
            setting of this origin (``{"rpn.anchor_sizes": (16, 32, 64, 128, 256)}``).
        allow_missing: patterns (``roi_heads.mask.*``) of the detector's tensors that may stay at
            initialization.
        allow_unused: patterns of the file's tensors that may stay unused.
        overrides: inference settings by name: short_side, long_side, proposals,
            proposals_per_level, proposal_nms_iou, score_threshold, nms_iou, detections_per_image,
            mask_threshold.

    Raises:
        WeightsError: the file is missing, damaged or does not fit the config, or a tensor of the
            detector or of the file is left over.
        TypeError: there is no such override, or an argument has the wrong type.
        ValueError: there is no such device.
        ConfigError: the YAML file, a convention or the value of an override is not valid.
    """
    check_source(source)
    check_config(config)
    device = check_device(device)
    detector, report = read_detector(source, config, conventions, **overrides)
    _log_report(source, report)
    if problems := report.problems(allow_missing, allow_unused):
        raise WeightsError(
            f"{source} does not fill the detector: {shorten(problems)} "
            f"({replace(report, notes=())}). To load it anyway, pass patterns as "
            "allow_missing= or allow_unused="
        )
    return detector.to(device).eval()


def read_conventions(source: str | Path, config: ModelConfig) -> Conventions | None:
    """Return the conventions that weights assume.

    Args:
        source: as for :func:`load_network`.
        config: of the detector that they are for.

    Returns:
        Those of a whole detector; of a timm backbone, those of pixels. None for a ResNet, whose
        weights are converted, or if they are not known.

    Raises:
        WeightsError: the weights cannot be read.
    """
    weights = read_weights(source)
    if is_whole_detector(weights.tensors):
        return weights.conventions
    return pixel_conventions(config.backbone)


def resolve_config(
    source: str | Path, config: ModelConfig, conventions: Mapping[str, Any] | None = None
) -> ModelConfig:
    """Return the config of the detector that `load_network` would build of these weights.

    Logs the same warning if ``config`` states settings that are not used.

    Args:
        source: as for :func:`load_network`.
        config: as for :func:`load_network`.
        conventions: as for :func:`load_network`.

    Raises:
        WeightsError: the weights cannot be read, or contradict ``conventions``.
        ConfigError: a convention is not valid.
    """
    path = fetch_published(source, config)
    weights, warnings = read_for_inference(path, config, conventions)
    for warning in warnings:
        _LOG.warning("%s: %s", source, warning)
    return weights.config or config


def read_detector(
    source: str | Path,
    config: str | Path | ModelConfig | None = None,
    conventions: Mapping[str, Any] | None = None,
    **overrides: float,
) -> tuple[Detector, LoadReport]:
    """Build the detector that weights describe, fill it as far as they go, and report the result.

    Args:
        source: as for :func:`load_network`.
        config: as for :func:`load_network`.
        conventions: as for :func:`load_network`.
        overrides: as for :func:`load_network`.

    Raises:
        WeightsError: as for :func:`load_network`, except for tensors that are left over.
        TypeError: there is no such override.
        ConfigError: as for :func:`load_network`.
    """
    if source == "imagenet":
        raise WeightsError("imagenet weights are those of a backbone, not of a detector; use coco")
    stated = _read_config(config)
    path = fetch_published(source, stated or ModelConfig())
    weights, warnings = read_for_inference(path, stated, conventions)
    settled = weights.config
    if settled is None:
        raise WeightsError(
            f"{source} does not reveal the architecture of its detector: pass config= (--config on "
            "the command line), a YAML file with a model section"
        )
    categories = weights.categories if len(weights.categories) == settled.num_classes else ()
    detector = build_detector(override_inference_settings(settled, overrides), categories)
    report = fill_detector(detector, weights, ClassRows({}), source, allow_mismatch=False)
    notes = (*warnings, *weights.assumptions, *weights.approximations)
    return detector, replace(report, notes=notes)


def load_weights(
    detector: Detector,
    source: str | Path,
    allow_mismatch: bool = True,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
) -> LoadReport:
    """Initialize a detector for training with the weights that fit.

    The detector keeps its conventions: the weights are converted to its pixel order, mean, standard
    deviation and epsilon, and one warning lists all settings that they were trained with and the
    detector does not have. If both sides know the names of their classes, a class keeps its weights
    if the file has one of the same name.

    Args:
        detector: filled in place.
        source: as for :func:`load_network`, or a ResNet classifier for the backbone: of
            torchvision, timm, Detectron or detectron2, or ``"imagenet"`` for a published one.
        allow_mismatch: if the file has other classes, leave the layers whose shape depends on them
            at initialization. Otherwise that is an error, as it always is for other layers.
        allow_missing: patterns (``fpn.*``) of the detector's tensors that may stay at
            initialization although the file has others of the same part.
        allow_unused: patterns of the file's tensors that may stay unused although the detector has
            others of the same part.

    Returns:
        What was loaded, and what was not.

    Raises:
        WeightsError: the file cannot be read, has nothing for this detector or does not fit, or a
            part (backbone, pyramid, a head) is incomplete on one side.
    """
    own = detector.config
    weights = name_backbone_tensors(read_weights(fetch_published(source, own)), detector)
    notes = (*weights.assumptions, *warn_about_folded_norms(weights.tensors, own.backbone.norm))
    if weights.conventions is not None:
        tensors, conflicts = adapt_to_conventions(
            weights.tensors,
            weights.conventions,
            own.conventions,
            is_whole_detector(weights.tensors),
            dilated=own.backbone.features == "dc5",
        )
        if weights.config is not None:
            conflicts = (*conflicts, *list_other_settings(weights.config, own))
        weights = replace(weights, tensors=tensors)
        notes = (*notes, *([describe_overruled_weights(conflicts)] if conflicts else []))
    rows = ClassRows({})
    if allow_mismatch:
        rows = match_class_rows(
            weights.tensors, detector.state_dict(), weights.categories, detector.categories
        )
    report = fill_detector(detector, weights, rows, source, allow_mismatch)
    if problems := report.problems(allow_missing, allow_unused, parts_may_differ=True):
        raise WeightsError(
            f"{source} matches this detector only in part: {shorten(problems)}. To load it "
            "anyway, pass patterns as allow_missing or allow_unused"
        )
    report = replace(report, notes=notes)
    _log_report(source, report)
    return report


def _read_config(config: str | Path | ModelConfig | None) -> ModelConfig | None:
    if config is None or isinstance(config, ModelConfig):
        return config
    checked: ModelConfig = check_settings(ModelConfig, compose_yaml(config).get("model", {}))
    return checked


def _log_report(source: str | Path, report: LoadReport) -> None:
    _LOG.info("%s: %s", source, replace(report, notes=()))
    for note in report.notes:
        _LOG.warning("%s: %s", source, note)
