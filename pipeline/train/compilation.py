"""torch.compile for the parts of a detector whose work depends on its weights and pixels alone."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from model import Detector


def compile_features(detector: Detector, backend: str | Callable[..., object] = "inductor") -> None:
    """Compile backbone and pyramid, in place: the names of their weights do not change.

    They are compiled at their first use, once or twice for all image sizes. A copy of the detector
    is not compiled. The heads are not either: their shapes depend on what is detected.

    Args:
        detector: in training mode when it is used; see :func:`uncompiled`.
        backend: of ``torch.compile``.
    """
    for module in (detector.backbone, detector.fpn):
        if module is not None:
            module.compile(dynamic=True, backend=backend)


def uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled detectors run as if they were not.

    Compiling again for inference would take longer than a validation, and leaves out the fast path
    of the CPU (``model.layers.convolution``).
    """
    context: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return context
