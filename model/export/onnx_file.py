"""The detector as an ONNX file of standard operators, which any ONNX runtime can run."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model.detector import Detector
from model.export.graph import InferenceGraph
from model.export.metadata import METADATA_KEY, export_metadata
from model.export.program import ExportError, require_compiled_operators, trace_inference
from model.optional_packages import require_packages
from model.structures import ImageSize

if TYPE_CHECKING:
    from onnx import ModelProto


def export_onnx(
    detector: Detector, path: str | Path, size: ImageSize | None = None, *, resizes: bool = False
) -> None:
    """Write a detector's inference on one image as a single ONNX file, weights included.

    The input ``pixels`` and the outputs ``boxes``, ``scores``, ``labels`` and, if there are heads
    for them, ``masks`` and ``keypoints`` are those of
    :meth:`model.export.graph.InferenceGraph.forward`. The file's metadata has the JSON of
    :func:`model.export.metadata.export_metadata`.

    Args:
        detector: any detector.
        path: the file to write.
        size: as for :func:`model.export.export_program`.
        resizes: the file takes uint8 images of any size and resizes them itself, as
            :class:`model.Predictor` does; boxes and keypoints are in pixels of those images.

    Raises:
        MissingPackagesError: onnx or onnxscript is not installed.
        ExportError: the operators are not compiled.
        ValueError: the file is to resize images, and a size is given.
    """
    if resizes and size is not None:
        raise ValueError("a file that resizes images takes images of any size; give no size")
    if detector.device.type != "cpu":
        detector = copy.deepcopy(detector).cpu()
    require_compiled_operators(detector.device)
    require_packages("ONNX export", "export", ("onnx", "onnxscript"))
    # Optional: the `export` extra installs onnx and onnxscript.
    import onnx  # noqa: PLC0415

    from model.export.onnx_image import prepend_resizing  # noqa: PLC0415

    model = _translate(detector, size, resizes)
    if resizes:
        model = prepend_resizing(model, detector.config)
    metadata = {METADATA_KEY: export_metadata(detector, resizes)}
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def _translate(detector: Detector, size: ImageSize | None, scales_results: bool) -> "ModelProto":
    """Return the network in ONNX; ``scales_results`` as for ``trace_inference``."""
    from model.export.onnx_operators import DECOMPOSITIONS, OPSET, TRANSLATIONS  # noqa: PLC0415

    program = trace_inference(detector, size, scales_results)
    exported = torch.onnx.export(
        program.run_decompositions(DECOMPOSITIONS),
        opset_version=OPSET,
        custom_translation_table=TRANSLATIONS,
        input_names=["pixels", "ratio"] if scales_results else ["pixels"],
        output_names=InferenceGraph(detector).outputs,
        # Only names: the program says which sides vary.
        dynamic_shapes=None if size else _side_names(scales_results),
        verbose=False,
    )
    if exported is None:  # only from torch's older exporter
        raise ExportError("torch.onnx.export returned no program")
    for output in exported.model.graph.outputs:
        if output.shape is not None:
            output.shape[0] = "detections"
    return exported.model_proto


def _side_names(scales_results: bool) -> dict[str, dict[int, str] | None]:
    sides: dict[str, dict[int, str] | None] = {"pixels": {0: "height", 1: "width"}}
    return sides | {"ratio": None} if scales_results else sides
