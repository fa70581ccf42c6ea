"""Write the exported file of a detector, and compare its detections with the detector's."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.detector import Detector
from model.export.comparison import ExportedDetector, compare_on_images
from model.export.metadata import METADATA_KEY, export_metadata
from model.export.onnx_file import export_onnx
from model.export.program import export_program
from model.optional_packages import require_packages
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize

# A detection at a threshold may be kept by one detector and dropped by the other.
MIN_MATCHED_SHARE = 0.98


def write_exported_file(
    detector: Detector, path: Path, size: ImageSize | None, resizes: bool = False
) -> None:
    """Write the detector to ``path``: ONNX, or a torch.export program for ``.pt2``.

    Raises:
        ExportError: the operators are not compiled.
        MissingPackagesError: a package that ONNX files need is not installed.
        ValueError: a program is to resize images, which only an ONNX file can, or a size is given.
    """
    if path.suffix == ".onnx":
        export_onnx(detector, path, size, resizes=resizes)
        return
    if resizes:
        raise ValueError(f"only an ONNX file can resize images; got {path}")
    metadata = {f"{METADATA_KEY}.json": export_metadata(detector)}
    torch.export.save(export_program(detector, size), path, extra_files=metadata)


def check_exported_file(
    detector: Detector,
    path: Path,
    paths: Sequence[Path],
    size: ImageSize | None,
    resizes: bool = False,
) -> int:
    """Print how well the detections of the file and the detector agree.

    Args:
        detector: the detector that was exported.
        path: the exported file.
        paths: image files to compare on; a synthetic image if empty.
        size: the only image size of the file; None for any size.
        resizes: the file resizes images itself.

    Returns:
        0 if they agree; 1 if they do not, or if there are no detections to compare.
    """
    images = [_read_image(image) for image in paths] or [_synthetic_image()]
    if not resizes:
        images = [_to_network_size(detector, image, size) for image in images]
    agreement = compare_on_images(detector, _load(path), images, resizes)
    print(agreement)
    if agreement.expected == agreement.exported == 0:
        print("no detections to compare: pass images of objects to --check", file=sys.stderr)
        return 1
    return 0 if agreement.matched_share >= MIN_MATCHED_SHARE else 1


def _to_network_size(detector: Detector, image: Tensor, size: ImageSize | None) -> Tensor:
    settings, rounding = detector.config.input, detector.config.conventions.resize_rounding
    original = ImageSize(*image.shape[:2])
    return resize_image(
        image,
        size or resized_size(original, settings.short_side, settings.long_side, rounding),
    )


def _load(path: Path) -> ExportedDetector:
    """Load the exported file as any other program would."""
    if path.suffix != ".onnx":
        program: ExportedDetector = torch.export.load(path).module()
        return program
    require_packages("--check of an ONNX file", "export", ("onnxruntime",))
    import onnxruntime  # noqa: PLC0415 optional: the `export` extra installs it

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: Tensor) -> dict[str, Tensor]:
        results = session.run(names, {"pixels": pixels.numpy()})
        return dict(zip(names, map(torch.from_numpy, results), strict=True))

    return run


def _read_image(path: Path) -> Tensor:
    """Return an image file as (H, W, 3) uint8 RGB."""
    from PIL import Image  # noqa: PLC0415 only needed here; `model` works without it

    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))


def _synthetic_image() -> Tensor:
    """Return an image of smooth random colors, (480, 640, 3) uint8."""
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()
