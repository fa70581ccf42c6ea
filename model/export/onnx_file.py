"""The detector as an ONNX file of standard operators, which any ONNX runtime can run."""

import copy
import json
from pathlib import Path

import torch

from model.detector import Detector
from model.export.graph import InferenceGraph
from model.export.program import ExportError, export_program, require_compiled_operators
from model.structures import ImageSize

INSTALL = "pip install onnx onnxruntime onnxscript"


def export_onnx(detector: Detector, path: str | Path, size: ImageSize | None = None) -> None:
    """Write a detector's inference on one picture as ONNX, its weights in the same file.

    The input ``pixels`` and the outputs ``boxes``, ``scores``, ``labels`` and, where there are
    heads for them, ``masks`` and ``keypoints`` are those of
    :meth:`model.export.graph.InferenceGraph.forward`. The file's metadata have what a caller needs
    besides, as JSON: see :func:`description`.

    Args:
        detector: of any kind.
        path: the file to write.
        size: as for :func:`model.export.export_program`.

    Raises:
        ExportError: onnx or onnxscript are not installed, or our operators are not compiled.
    """
    if detector.device.type != "cpu":
        detector = copy.deepcopy(detector).cpu()
    require_compiled_operators(detector.device)
    try:
        # optional: the `export` extra brings onnx and onnxscript
        from model.export.onnx_operators import (  # noqa: PLC0415
            DECOMPOSITIONS,
            OPSET,
            TRANSLATIONS,
        )
    except ImportError as error:
        raise ExportError(f"ONNX export needs {error.name}: {INSTALL}") from error
    program = export_program(detector, size).run_decompositions(DECOMPOSITIONS)
    written = torch.onnx.export(
        program,
        opset_version=OPSET,
        custom_translation_table=TRANSLATIONS,
        input_names=["pixels"],
        output_names=InferenceGraph(detector).outputs,
        dynamic_shapes=None if size else {"pixels": {0: "height", 1: "width"}},  # their names
        verbose=False,
    )
    if written is None:  # only from the older exporter
        raise ExportError("torch.onnx.export gave no program")
    for output in written.model.graph.outputs:
        if output.shape is not None:
            output.shape[0] = "detections"
    written.model.metadata_props["maskrcnn_ray"] = json.dumps(description(detector))
    written.save(path, external_data=False)


def description(detector: Detector) -> dict[str, object]:
    """What a caller needs besides the file: JSON-ready.

    Returns:
        categories: ids and names, of which label i is the i-th, from 1; None where a proposal
        network alone finds objects of no class.
        short_side, long_side, resize_rounding, resize_filter: how a picture is resized before it
        is given, pixels.
        mask_threshold: probability at which a pixel is object; mask_paste: how masks come to the
        picture, see :class:`model.detections.Detections`; both None without masks.
        keypoints: their names, None without keypoints.
        box_end: pixels from the coordinate that the detector's conventions mean to x2 and y2 as
        they are given, 1 where boxes end on their last pixel; keypoint_origin: the same of x and y
        of keypoints. Whoever scales a box or keypoint to another size takes these away before and
        adds them after.
    """
    config, rules = detector.config, detector.config.conventions
    mask, keypoint = config.mask, config.keypoint
    return {
        "categories": None
        if config.is_proposal_network
        else [named._asdict() for named in detector.categories],
        "short_side": config.input.short_side,
        "long_side": config.input.long_side,
        "resize_rounding": rules.resize_rounding,
        "resize_filter": rules.resize_filter,
        "box_end": detector.box_convention.offset,
        "mask_threshold": None if mask is None else mask.threshold,
        "mask_paste": None
        if mask is None
        else detector.box_convention.mask_paste(rules.mask_paste),
        "keypoint_origin": None if keypoint is None else rules.keypoint_origin,
        "keypoints": None if keypoint is None else list(keypoint.names),
    }
