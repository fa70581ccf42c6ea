"""Weights into detectors: whole ones, and parts of them for fine-tuning."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.build import build_detector
from model.config import Conventions, ModelConfig
from model.config.settings import check_settings, compose_yaml
from model.detector import Detector
from model.weights.adaptation import adapt_to_conventions, folded_norms_note
from model.weights.architecture.backbone import RES5_OF_BOX_HEAD
from model.weights.architecture.detector import is_whole_detector
from model.weights.class_rows import ClassRows, is_class_layer, rows_by_name
from model.weights.conversion import Conversion
from model.weights.inference_settings import with_inference_settings
from model.weights.read import read_source
from model.weights.report import LoadReport, WeightsError

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
    """A trained detector, ready to predict.

    Args:
        source: a folder that ``save_detector`` wrote, or a file or its ``https://`` address: ours
            (.safetensors, .pth), or a detector of this family of torchvision, detectron2,
            Detectron or maskrcnn-benchmark.
        config: a YAML file with a ``model`` part, or a ModelConfig. A folder brings its own, and
            foreign weights tell their architecture; then this may be None. What foreign weights
            do tell overrules it, but for the conventions that it states.
        device: where the detector shall be.
        allow_missing: patterns (``roi_heads.mask.*``) of the detector's tensors that may stay at
            initialisation.
        allow_unused: patterns of the file's tensors that may stay unused.
        overrides: inference settings by name: short_side, long_side, proposals,
            proposals_per_level, proposal_nms_iou, score_threshold, nms_iou, detections_per_image,
            mask_threshold.

    Raises:
        WeightsError: the file is absent, damaged or does not fit the config, or a tensor of either
            side is left over.
        TypeError: an override has no such name.
        ConfigError: the YAML file, or an override's value, is not valid.
    """
    detector, report = read_detector(source, config, **overrides)
    _LOG.info("%s: %s", source, replace(report, notes=()))
    for note in report.notes:
        _LOG.warning("%s: %s", source, note)
    if left_over := report.unexplained(allow_missing, allow_unused):
        raise WeightsError(
            f"{source} does not fill the detector: {_shortened(left_over)}; {report}"
        )
    return detector.to(device).eval()


def conventions_of(source: str | Path) -> Conventions | None:
    """What the weights of a whole detector take for granted; None of a backbone alone.

    Args:
        source: as for :func:`load_network`.

    Raises:
        WeightsError: the weights cannot be read.
    """
    conversion = read_source(source)
    return conversion.conventions if is_whole_detector(conversion.tensors) else None


def read_detector(
    source: str | Path, config: str | Path | ModelConfig | None = None, **overrides: float
) -> tuple[Detector, LoadReport]:
    """The detector that weights describe, as far as they fill it, and what became of them.

    Args:
        source: as for :func:`load_network`.
        config: as for :func:`load_network`.
        overrides: as for :func:`load_network`.

    Raises:
        WeightsError: as :func:`load_network`, but for incomplete weights.
        TypeError: an override has no such name.
        ConfigError: the YAML file, or an override's value, is not valid.
    """
    given = _read_config(config)
    conversion = read_source(source, given)
    own = conversion.ecosystem == "maskrcnn-ray"
    chosen = given if own and given is not None else conversion.config or given
    if chosen is None:
        raise WeightsError(f"{source} does not say which detector it is for: pass config=")
    if not own:
        _report_difference(given, chosen, source)
    categories = conversion.categories
    if len(categories) != chosen.num_classes:
        categories = ()
    detector = build_detector(with_inference_settings(chosen, overrides), categories)
    report = _fill(detector, conversion, ClassRows({}), source, allow_mismatch=False)
    return detector, replace(report, notes=(*conversion.assumed, *conversion.not_honoured))


def load_weights(
    detector: Detector,
    source: str | Path,
    allow_mismatch: bool = True,
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
) -> LoadReport:
    """Start a detector from given weights, as far as they fit.

    The detector keeps its own conventions; pixel order, mean, deviation and epsilon of the weights
    are converted to them. Where both sides know their classes by name, a class of the same name
    keeps its weights.

    Args:
        detector: takes the weights, in place.
        source: as ``load_network``'s, or a ResNet classifier for the backbone: of torchvision,
            timm, Detectron or detectron2.
        allow_mismatch: leave layers whose shape depends on the classes at initialisation where the
            file has other classes; else that is an error, as it always is for other layers.
        allow_missing: patterns (``fpn.*``) of the detector's tensors that may stay at
            initialisation though the file has others of the same part.
        allow_unused: patterns of the file's tensors that may stay unused though the detector has
            others of the same part.

    Returns:
        What was loaded, and what was not.

    Raises:
        WeightsError: the file cannot be read, holds nothing for this detector, does not fit, or a
            part (backbone, pyramid, a head) of either fills the other's only in part.
    """
    conversion = read_source(source)
    norm = detector.config.backbone.norm
    notes = (*conversion.assumed, *folded_norms_note(conversion.tensors, norm))
    if conversion.conventions is not None:
        tensors, adapted = adapt_to_conventions(
            conversion.tensors,
            conversion.conventions,
            detector.config.conventions,
            is_whole_detector(conversion.tensors),
            dilated=detector.config.backbone.features == "dc5",
        )
        conversion, notes = replace(conversion, tensors=tensors), (*notes, *adapted)
    rows = ClassRows({})
    if allow_mismatch:
        rows = rows_by_name(
            conversion.tensors, detector.state_dict(), conversion.categories, detector.categories
        )
    report = _fill(detector, conversion, rows, source, allow_mismatch)
    if left_over := report.unexplained(allow_missing, allow_unused, parts_may_differ=True):
        raise WeightsError(
            f"{source} fits this detector only in part: {_shortened(left_over)}. Allow it by name: "
            "allow_missing, allow_unused"
        )
    _LOG.info("%s: %s", source, report)
    for note in notes:
        _LOG.warning("%s: %s", source, note)
    return replace(report, notes=notes)


def _fill(
    detector: Detector,
    conversion: Conversion,
    rows: ClassRows,
    source: str | Path,
    allow_mismatch: bool,
) -> LoadReport:
    own = detector.state_dict()
    conversion = _res5_into_box_head(conversion, own)
    state: Mapping[str, Tensor] = {**conversion.tensors, **rows.tensors}
    # A counter that only batch norm with momentum None reads.
    optional = {name for name in (*own, *state) if name.endswith("num_batches_tracked")}
    fitting = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
    other_shape = [n for n, t in state.items() if n in own and own[n].shape != t.shape]
    described = {n: f"{n} {tuple(own[n].shape)} <- {tuple(state[n].shape)}" for n in other_shape}
    fatal = [described[n] for n in other_shape if not (allow_mismatch and is_class_layer(n))]
    if fatal:
        raise WeightsError(f"{source} does not fit this detector: " + "; ".join(fatal[:8]))
    if not fitting:
        found = ", ".join(list(state)[:3])
        raise WeightsError(f"{source} holds nothing for this detector, only {found} ...")
    detector.load_state_dict(fitting, strict=False)
    names = conversion.original_names
    return LoadReport(
        loaded=tuple(fitting),
        initialised=tuple(n for n in own if n not in state and n not in optional),
        mismatched=tuple(described.values()),
        dropped=tuple(n for n in state if n not in own and n not in optional),
        unneeded=conversion.unneeded,
        original_names={n: names[n] for n in state if n in names},
        kept_classes=rows.kept,
        fresh_classes=rows.fresh,
        shapes={names.get(n, n): tuple(t.shape) for n, t in state.items()}
        | {n: tuple(t.shape) for n, t in own.items()},
        ecosystem=conversion.ecosystem,
    )


def _res5_into_box_head(conversion: Conversion, own: Mapping[str, Tensor]) -> Conversion:
    """A backbone's res5 where the detector has it: in the box head, where it reads c4.

    Args:
        conversion: weights under our names.
        own: the detector's.
    """
    backbone, box_head = "backbone.layer4.", f"{RES5_OF_BOX_HEAD}."
    if not any(name.startswith(box_head) for name in own):
        return conversion

    def moved(name: str) -> str:
        return box_head + name.removeprefix(backbone) if name.startswith(backbone) else name

    return replace(
        conversion,
        tensors={moved(name): tensor for name, tensor in conversion.tensors.items()},
        original_names={moved(ours): name for ours, name in conversion.original_names.items()},
    )


def _read_config(config: str | Path | ModelConfig | None) -> ModelConfig | None:
    if config is None or isinstance(config, ModelConfig):
        return config
    checked: ModelConfig = check_settings(ModelConfig, compose_yaml(config).get("model", {}))
    return checked


def _shortened(lines: Sequence[str]) -> str:
    return "; ".join(lines[:8]) + (f" and {len(lines) - 8} more" if len(lines) > 8 else "")


def _report_difference(given: ModelConfig | None, chosen: ModelConfig, source: str | Path) -> None:
    """Say which parts of a given config the weights overrule."""
    if given is None:
        return
    for name in type(given).model_fields:
        if getattr(given, name) != getattr(chosen, name):
            _LOG.warning("%s overrules model.%s: %r", source, name, getattr(chosen, name))
