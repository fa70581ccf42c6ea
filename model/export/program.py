"""The detector as a program of torch.export, which needs our operators alone."""

import torch
from torch.export import Dim, ExportedProgram

import ops_cuda
from model.detector import Detector
from model.export.graph import InferenceGraph
from model.structures import ImageSize
from ops_cuda import library


class ExportError(Exception):
    """What an export needs is not there."""


def export_program(detector: Detector, size: ImageSize | None = None) -> ExportedProgram:
    """Trace the inference of a detector on one picture.

    The program's only argument, ``pixels``, and its results are those of
    :meth:`model.export.graph.InferenceGraph.forward`. ``torch.export.save`` writes it; a process
    that loads it must have imported ``ops_cuda``. It runs where the detector's weights are.

    Args:
        detector: of any kind; its weights are shared.
        size: of every picture that it will see, at network resolution; None for any size whose
            sides are longer than the coarsest level's stride: 64 pixels on a feature pyramid, 128
            of RetinaNet, 16 or 32 without a pyramid.

    Raises:
        ExportError: our operators are not compiled, and their twins cannot be traced.
    """
    require_compiled_operators(detector.device)
    shortest = detector.strides[-1] + 1
    example = size or ImageSize(2 * shortest, 3 * shortest)
    pixels = torch.zeros(*example, 3, dtype=torch.uint8, device=detector.device)
    # a level of one cell would be traced as if it were always one
    sides = {0: Dim("height", min=shortest), 1: Dim("width", min=shortest)}
    graph, training = InferenceGraph(detector), detector.training
    graph.eval()
    try:
        with torch.no_grad():
            return torch.export.export(
                graph, (pixels,), dynamic_shapes=None if size else {"pixels": sides}, strict=False
            )
    finally:
        detector.train(training)


def require_compiled_operators(device: torch.device) -> None:
    """Raise ExportError unless our operators are compiled for ``device``."""
    if not library.compiled_for("grouped_nms", device):
        raise ExportError(f"export needs the compiled operators; got {ops_cuda.backend()}")
