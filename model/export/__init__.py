"""Trained detectors for other runtimes: torch.export's programs and ONNX."""

from model.export.onnx_file import export_onnx
from model.export.program import export_program

__all__ = ["export_onnx", "export_program"]
