"""The detector as an ONNX file of standard operators, which any ONNX runtime can run."""

import copy
from pathlib import Path

import torch

from model.detector import Detector
from model.export.graph import InferenceGraph
from model.export.metadata import METADATA_KEY, export_metadata
from model.export.program import ExportError, export_program, require_compiled_operators
from model.structures import ImageSize

INSTALL_COMMAND = "pip install onnx onnxruntime onnxscript"


def export_onnx(detector: Detector, path: str | Path, size: ImageSize | None = None) -> None:
    """Write a detector's inference on one image as a single ONNX file, weights included.

    The input ``pixels`` and the outputs ``boxes``, ``scores``, ``labels`` and, if there are heads
    for them, ``masks`` and ``keypoints`` are those of
    :meth:`model.export.graph.InferenceGraph.forward`. The file's metadata has the JSON of
    :func:`model.export.metadata.export_metadata`.

    Args:
        detector: any detector.
        path: the file to write.
        size: as for :func:`model.export.export_program`.

    Raises:
        ExportError: onnx or onnxscript is not installed, or the operators are not compiled.
    """
    if detector.device.type != "cpu":
        detector = copy.deepcopy(detector).cpu()
    require_compiled_operators(detector.device)
    try:
        # Optional: the `export` extra installs onnx and onnxscript.
        from model.export.onnx_operators import (  # noqa: PLC0415
            DECOMPOSITIONS,
            OPSET,
            TRANSLATIONS,
        )
    except ImportError as error:
        raise ExportError(f"ONNX export needs {error.name}: {INSTALL_COMMAND}") from error
    program = export_program(detector, size).run_decompositions(DECOMPOSITIONS)
    exported = torch.onnx.export(
        program,
        opset_version=OPSET,
        custom_translation_table=TRANSLATIONS,
        input_names=["pixels"],
        output_names=InferenceGraph(detector).outputs,
        # Only names: the program says which sides vary.
        dynamic_shapes=None if size else {"pixels": {0: "height", 1: "width"}},
        verbose=False,
    )
    if exported is None:  # only from torch's older exporter
        raise ExportError("torch.onnx.export returned no program")
    for output in exported.model.graph.outputs:
        if output.shape is not None:
            output.shape[0] = "detections"
    exported.model.metadata_props[METADATA_KEY] = export_metadata(detector)
    exported.save(path, external_data=False)
