"""Export a detector to a file for other runtimes.

python -m model.export SOURCE --to model.onnx [--height H --width W] [--check [IMAGE ...]]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config.settings import ConfigError
from model.detector import Detector
from model.export.comparison import ExportedDetector, compare_on_images
from model.export.metadata import METADATA_KEY, export_metadata
from model.export.onnx_file import INSTALL_COMMAND, export_onnx
from model.export.program import ExportError, export_program
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize
from model.weights import load_network
from model.weights.report import WeightsError

# A detection at a threshold may be kept by one detector and dropped by the other.
MIN_MATCHED_SHARE = 0.98


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a detector, and compare the file with it if ``--check`` is given.

    Returns:
        0 on success; 1 if the weights cannot be read, a package is missing, or the detections of
        the file differ; 2 if the command line or the config is invalid.
    """
    parser = _make_parser()
    options = parser.parse_args(arguments)
    if (options.height is None) != (options.width is None):
        parser.error("give --height and --width together, or neither for images of any size")
    size = None if options.height is None else ImageSize(options.height, options.width)
    try:
        detector = load_network(options.source, options.config)
        _export(detector, options.to, size)
        sizes = f"{size.height} x {size.width} pixels" if size else "any size"
        print(f"wrote {options.to} for images of {sizes}")
        return 0 if options.check is None else _check(detector, options.to, options.check, size)
    except (ExportError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def _export(detector: Detector, path: Path, size: ImageSize | None) -> None:
    if path.suffix == ".onnx":
        export_onnx(detector, path, size)
        return
    metadata = {f"{METADATA_KEY}.json": export_metadata(detector)}
    torch.export.save(export_program(detector, size), path, extra_files=metadata)


def _check(detector: Detector, path: Path, paths: Sequence[Path], size: ImageSize | None) -> int:
    settings, rounding = detector.config.input, detector.config.conventions.resize_rounding
    images = [_read_image(image) for image in paths] or [_synthetic_image()]
    sizes = [
        size
        or resized_size(
            ImageSize(*image.shape[:2]), settings.short_side, settings.long_side, rounding
        )
        for image in images
    ]
    agreement = compare_on_images(detector, _load(path), map(resize_image, images, sizes))
    print(agreement)
    if agreement.expected == agreement.exported == 0:
        print("no detections to compare: pass images of objects to --check", file=sys.stderr)
        return 1
    return 0 if agreement.matched_share >= MIN_MATCHED_SHARE else 1


def _load(path: Path) -> ExportedDetector:
    """Load the exported file as any other program would."""
    if path.suffix != ".onnx":
        program: ExportedDetector = torch.export.load(path).module()
        return program
    try:
        import onnxruntime  # noqa: PLC0415 optional: the `export` extra installs it
    except ImportError as error:
        raise ExportError(
            f"--check of an ONNX file needs onnxruntime: {INSTALL_COMMAND}"
        ) from error
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


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("source", help="weights as for model.load_detector: a folder or a file")
    parser.add_argument("--config", help="a YAML file with a model section")
    parser.add_argument(
        "--to", required=True, type=_output_path, help="the file: .onnx, or .pt2 of torch.export"
    )
    parser.add_argument("--height", type=_pixels, help="of every image; default: any")
    parser.add_argument("--width", type=_pixels, help="of every image; default: any")
    parser.add_argument(
        "--check",
        nargs="*",
        type=Path,
        metavar="IMAGE",
        help="compare the detections of file and detector on images, or on a synthetic image",
    )
    return parser


def _output_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".onnx", ".pt2"):
        raise argparse.ArgumentTypeError(f"must end with .onnx or .pt2; got {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder: create it first")
    return path


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of pixels; got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
