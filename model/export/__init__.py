"""Export trained detectors to other runtimes: ``torch.export`` programs and ONNX."""

from typing import TYPE_CHECKING

from model.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from model.export.onnx_file import export_onnx
    from model.export.program import ExportError, export_program
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "model.export.onnx_file": ["export_onnx"],
            "model.export.program": ["ExportError", "export_program"],
        },
    )

__all__ = ["ExportError", "export_onnx", "export_program"]
