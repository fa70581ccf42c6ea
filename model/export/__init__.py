"""Export trained detectors to other runtimes: ``torch.export`` programs and ONNX."""

from model.export.onnx_file import export_onnx
from model.export.program import ExportError, export_program

__all__ = ["ExportError", "export_onnx", "export_program"]
