"""The detector as a ``torch.export`` program, which runs with our compiled operators alone."""

from typing import Any

import torch
from torch.export import Dim, ExportedProgram

import ops_cuda
from model.detector import Detector
from model.export.graph import InferenceGraph
from model.structures import ImageSize
from ops_cuda import library


class ExportError(Exception):
    """Something that an export needs is not compiled."""


def export_program(detector: Detector, size: ImageSize | None = None) -> ExportedProgram:
    """Trace the inference of a detector on one image.

    The program's only argument ``pixels`` and its results are those of
    :meth:`model.export.graph.InferenceGraph.forward`. ``torch.export.save`` writes it to a file; a
    process that loads the file must import ``ops_cuda`` first. The program runs on the device of
    the detector's weights.

    Args:
        detector: any detector; the program shares its weights.
        size: size of every image at network resolution; None for any size. Both sides of an image
            must then be longer than the coarsest level's stride: 64 pixels with a feature pyramid,
            128 for RetinaNet, 16 or 32 without a pyramid.

    Raises:
        ExportError: the operators are not compiled; their PyTorch reference cannot be traced.
    """
    return trace_inference(detector, size)


def trace_inference(
    detector: Detector, size: ImageSize | None, scales_results: bool = False
) -> ExportedProgram:
    """Trace an ``InferenceGraph``.

    Args:
        detector: as for :func:`export_program`.
        size: as for :func:`export_program`.
        scales_results: the program takes float32 levels of a resized image and the argument
            ``ratio``.

    Raises:
        ExportError: the operators are not compiled.
    """
    require_compiled_operators(detector.device)
    min_side = detector.strides[-1] + 1
    example = size or ImageSize(2 * min_side, 3 * min_side)
    dtype = torch.float32 if scales_results else torch.uint8
    arguments: tuple[torch.Tensor, ...] = (torch.zeros(*example, 3, dtype=dtype),)
    # Tracing would take a level of one cell for a constant size.
    sides = {0: Dim("height", min=min_side), 1: Dim("width", min=min_side)}
    shapes: tuple[dict[int, Any] | None, ...] = (None if size else sides,)
    if scales_results:
        arguments, shapes = (*arguments, torch.ones(2)), (*shapes, None)
    arguments = tuple(argument.to(detector.device) for argument in arguments)
    graph, training = InferenceGraph(detector), detector.training
    graph.eval()
    try:
        with torch.no_grad():
            return torch.export.export(graph, arguments, dynamic_shapes=shapes, strict=False)
    finally:
        detector.train(training)


def require_compiled_operators(device: torch.device) -> None:
    """Raise ExportError unless the operators are compiled for ``device``."""
    if not library.compiled_for("grouped_nms", device):
        raise ExportError(f"export needs the compiled operators; got {ops_cuda.backend()}")
