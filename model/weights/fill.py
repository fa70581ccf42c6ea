"""Copying converted weights into a detector."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from model.detector import Detector
from model.weights.architecture.backbone import RES5_OF_BOX_HEAD
from model.weights.class_rows import ClassRows, is_class_layer
from model.weights.conversion import ConvertedWeights
from model.weights.report import LoadReport, WeightsError, format_mismatch, shorten
from model.weights.storage.weights_file import check_finite


def fill_detector(
    detector: Detector,
    weights: ConvertedWeights,
    rows: ClassRows,
    source: str | Path,
    allow_mismatch: bool,
) -> LoadReport:
    """Copy every tensor that fits by name and shape into the detector.

    Args:
        detector: filled in place.
        weights: under our names.
        rows: class layers whose rows were matched by name; they replace those of ``weights``.
        source: source of the weights, for errors.
        allow_mismatch: leave class layers of another shape at initialization.

    Raises:
        WeightsError: another tensor has the wrong shape, no tensor fits, or a value is not finite.
    """
    own = detector.state_dict()
    weights = _move_res5_to_box_head(weights, own)
    state: Mapping[str, Tensor] = {**weights.tensors, **rows.tensors}
    # A counter that only batch norm with momentum None reads.
    optional = {name for name in (*own, *state) if name.endswith("num_batches_tracked")}
    own_shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    fitting = {n: t for n, t in state.items() if own_shapes.get(n) == shapes[n]}
    mismatched = {n: shape for n, shape in shapes.items() if own_shapes.get(n, shape) != shape}
    refused = [
        format_mismatch(name, own_shapes[name], shape)
        for name, shape in mismatched.items()
        if not (allow_mismatch and is_class_layer(name))
    ]
    if refused:
        raise WeightsError(f"{source} does not fit this detector: " + shorten(refused))
    if not fitting:
        examples = ", ".join(list(state)[:3])
        raise WeightsError(f"{source} has no tensor of this detector, only {examples} ...")
    check_finite(fitting, source)
    detector.load_state_dict(fitting, strict=False)
    original_names = weights.original_names
    return LoadReport(
        loaded=tuple(fitting),
        missing_keys=tuple(n for n in own if n not in state and n not in optional),
        mismatched_keys=mismatched,
        unexpected_keys=tuple(n for n in state if n not in own and n not in optional),
        ignored=weights.ignored,
        original_names={n: original_names[n] for n in state if n in original_names},
        kept_classes=rows.kept,
        new_classes=rows.new,
        shapes=shapes | own_shapes,
        ecosystem=weights.ecosystem,
    )


def _move_res5_to_box_head(
    weights: ConvertedWeights, own: Mapping[str, Tensor]
) -> ConvertedWeights:
    """Rename a backbone's res5 where the detector has it in the box head (c4)."""
    backbone, box_head = "backbone.layer4.", f"{RES5_OF_BOX_HEAD}."
    if not any(name.startswith(box_head) for name in own):
        return weights

    def moved(name: str) -> str:
        return box_head + name.removeprefix(backbone) if name.startswith(backbone) else name

    return replace(
        weights,
        tensors={moved(name): tensor for name, tensor in weights.tensors.items()},
        original_names={moved(ours): name for ours, name in weights.original_names.items()},
    )
