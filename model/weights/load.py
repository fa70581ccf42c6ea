"""Loading weights: a whole detector, or the parts that fit into a detector to be trained."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model.build import build_detector
from model.config import Conventions, ModelConfig
from model.config.settings import check_settings
from model.config.yaml_files import compose_yaml
from model.detector import Detector
from model.weights.adaptation import adapt_to_conventions, warn_about_folded_norms
from model.weights.architecture.detector import is_whole_detector
from model.weights.class_rows import ClassRows, match_class_rows
from model.weights.conversion import OUR_ECOSYSTEM
from model.weights.fill import fill_detector
from model.weights.inference_settings import override_inference_settings
from model.weights.read import read_weights
from model.weights.report import LoadReport, WeightsError, shorten

_LOG = logging.getLogger(__name__)


def load_network(
    source: str | Path,
    config: str | Path | ModelConfig | None = None,
    device: str | torch.device = "cpu",
    *,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    **overrides: float,
) -> Detector:
    """Load the network of a trained detector, in eval mode.

    Args:
        source: a folder that ``save_detector`` wrote, or a file or its ``https://`` address: ours
            (.safetensors, .pth), or a detector of this family of torchvision, detectron2,
            Detectron or maskrcnn-benchmark.
        config: a YAML file with a ``model`` section, or a ModelConfig. May be None for our folders,
            which have one, and for weights of other libraries, whose architecture is inferred and
            replaces what the config says about it, except for conventions stated explicitly.
        device: where to put the detector.
        allow_missing: patterns (``roi_heads.mask.*``) of the detector's tensors that may stay at
            initialization.
        allow_unused: patterns of the file's tensors that may stay unused.
        overrides: inference settings by name: short_side, long_side, proposals,
            proposals_per_level, proposal_nms_iou, score_threshold, nms_iou, detections_per_image,
            mask_threshold.

    Raises:
        WeightsError: the file is missing, damaged or does not fit the config, or a tensor of the
            detector or of the file is left over.
        TypeError: there is no such override.
        ConfigError: the YAML file, or the value of an override, is not valid.
    """
    detector, report = read_detector(source, config, **overrides)
    _log_report(source, report)
    if problems := report.problems(allow_missing, allow_unused):
        raise WeightsError(
            f"{source} does not fill the detector: {shorten(problems)} "
            f"({replace(report, notes=())}). To load it nevertheless, pass patterns as "
            "allow_missing= or allow_unused="
        )
    return detector.to(device).eval()


def read_conventions(source: str | Path) -> Conventions | None:
    """Return the conventions that the weights of a whole detector assume; None for a backbone.

    Args:
        source: as for :func:`load_network`.

    Raises:
        WeightsError: the weights cannot be read.
    """
    weights = read_weights(source)
    return weights.conventions if is_whole_detector(weights.tensors) else None


def read_detector(
    source: str | Path, config: str | Path | ModelConfig | None = None, **overrides: float
) -> tuple[Detector, LoadReport]:
    """Build the detector that weights describe, fill it as far as they go, and report the result.

    Args:
        source: as for :func:`load_network`.
        config: as for :func:`load_network`.
        overrides: as for :func:`load_network`.

    Raises:
        WeightsError: as for :func:`load_network`, except for tensors that are left over.
        TypeError: there is no such override.
        ConfigError: the YAML file, or the value of an override, is not valid.
    """
    given = _read_config(config)
    weights = read_weights(source, given)
    are_ours = weights.ecosystem == OUR_ECOSYSTEM
    selected = given if are_ours and given is not None else weights.config or given
    if selected is None:
        raise WeightsError(
            f"{source} does not reveal the architecture of its detector: pass config= (--config on "
            "the command line), a YAML file with a model section"
        )
    if not are_ours:
        _log_overridden(given, selected, source)
    categories = weights.categories
    if len(categories) != selected.num_classes:
        categories = ()
    detector = build_detector(override_inference_settings(selected, overrides), categories)
    report = fill_detector(detector, weights, ClassRows({}), source, allow_mismatch=False)
    return detector, replace(report, notes=(*weights.assumptions, *weights.approximations))


def load_weights(
    detector: Detector,
    source: str | Path,
    allow_mismatch: bool = True,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
) -> LoadReport:
    """Initialize a detector for training with the weights that fit.

    The detector keeps its conventions: the weights are converted to its pixel order, mean, standard
    deviation and epsilon. If both sides know the names of their classes, a class keeps its weights
    if the file has one of the same name.

    Args:
        detector: filled in place.
        source: as for :func:`load_network`, or a ResNet classifier for the backbone: of
            torchvision, timm, Detectron or detectron2.
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
    weights = read_weights(source)
    norm = detector.config.backbone.norm
    notes = (*weights.assumptions, *warn_about_folded_norms(weights.tensors, norm))
    if weights.conventions is not None:
        tensors, adapted = adapt_to_conventions(
            weights.tensors,
            weights.conventions,
            detector.config.conventions,
            is_whole_detector(weights.tensors),
            dilated=detector.config.backbone.features == "dc5",
        )
        weights, notes = replace(weights, tensors=tensors), (*notes, *adapted)
    rows = ClassRows({})
    if allow_mismatch:
        rows = match_class_rows(
            weights.tensors, detector.state_dict(), weights.categories, detector.categories
        )
    report = fill_detector(detector, weights, rows, source, allow_mismatch)
    if problems := report.problems(allow_missing, allow_unused, parts_may_differ=True):
        raise WeightsError(
            f"{source} matches this detector only in part: {shorten(problems)}. To load it "
            "nevertheless, pass patterns as allow_missing or allow_unused"
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


def _log_overridden(given: ModelConfig | None, selected: ModelConfig, source: str | Path) -> None:
    """Warn about the parts of a given config that the weights override."""
    if given is None:
        return
    for name in type(given).model_fields:
        if getattr(given, name) != getattr(selected, name):
            _LOG.warning("%s overrides model.%s: %r", source, name, getattr(selected, name))
