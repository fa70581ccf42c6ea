"""A detector's inference as a file for other runtimes.

python -m model.export SOURCE --to model.onnx [--height H --width W] [--check [PICTURE ...]]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.config.settings import ConfigError
from model.detector import Detector
from model.export.comparison import Exported, compare_on
from model.export.onnx_file import INSTALL, description, export_onnx
from model.export.program import ExportError, export_program
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize
from model.weights import load_network
from model.weights.report import WeightsError

# A detection at a threshold may be kept by one and dropped by the other.
LEAST_AGREEMENT = 0.98


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and compare on pictures if asked to.

    Returns:
        0 done, 1 the weights cannot be read, something is not installed, or the file does not find
        what the detector finds, 2 the command line or the config is wrong.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.height is None) != (options.width is None):
        parser.error("give --height and --width together, or neither for pictures of any size")
    size = None if options.height is None else ImageSize(options.height, options.width)
    try:
        detector = load_network(options.source, options.config)
        _write(detector, options.to, size)
        sizes = f"{size.height} x {size.width} pixels" if size else "any size"
        print(f"{options.to} is written, for pictures of {sizes}")
        return 0 if options.check is None else _check(detector, options.to, options.check, size)
    except (ExportError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2


def _write(detector: Detector, path: Path, size: ImageSize | None) -> None:
    if path.suffix == ".onnx":
        export_onnx(detector, path, size)
    else:
        words = json.dumps(description(detector))
        torch.export.save(
            export_program(detector, size), path, extra_files={"maskrcnn_ray.json": words}
        )


def _reader(path: Path) -> Exported:
    """The file as any other program would run it."""
    if path.suffix != ".onnx":
        program: Exported = torch.export.load(path).module()
        return program
    try:
        import onnxruntime  # noqa: PLC0415 optional: the `export` extra brings it
    except ImportError as error:
        raise ExportError(f"--check of an ONNX file needs onnxruntime: {INSTALL}") from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: Tensor) -> dict[str, Tensor]:
        results = session.run(names, {"pixels": pixels.numpy()})
        return dict(zip(names, map(torch.from_numpy, results), strict=True))

    return run


def _check(detector: Detector, path: Path, pictures: Sequence[Path], size: ImageSize | None) -> int:
    rule, rounding = detector.config.input, detector.config.conventions.resize_rounding
    shown = [_read_picture(picture) for picture in pictures] or [_noise()]
    sizes = [
        size
        or resized_size(ImageSize(*picture.shape[:2]), rule.short_side, rule.long_side, rounding)
        for picture in shown
    ]
    agreement = compare_on(detector, _reader(path), map(resize_image, shown, sizes))
    print(agreement)
    if agreement.wanted == agreement.found == 0:
        print("nothing to compare: give pictures of objects after --check", file=sys.stderr)
        return 1
    return 0 if agreement.share >= LEAST_AGREEMENT else 1


def _read_picture(path: Path) -> Tensor:
    from PIL import Image  # noqa: PLC0415 only needed here; `model` works without it

    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB")))


def _noise() -> Tensor:
    """A picture of soft blots, (H, W, 3) uint8."""
    coarse = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, (480, 640), mode="bicubic")
    return (smooth[0].clamp(0, 1) * 255).to(torch.uint8).permute(1, 2, 0).contiguous()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("source", help="weights as for model.load_detector: a folder or a file")
    parser.add_argument("--config", help="a YAML file with a model part")
    parser.add_argument(
        "--to", required=True, type=_known_kind, help="the file: .onnx, or .pt2 of torch.export"
    )
    parser.add_argument("--height", type=_pixels, help="of every picture; default: any")
    parser.add_argument("--width", type=_pixels, help="of every picture; default: any")
    parser.add_argument(
        "--check",
        nargs="*",
        type=Path,
        metavar="PICTURE",
        help="compare the file's detections with the detector's on pictures, or on soft blots",
    )
    return parser


def _known_kind(name: str) -> Path:
    path = Path(name)
    if path.suffix not in (".onnx", ".pt2"):
        raise argparse.ArgumentTypeError(f"must end with .onnx or .pt2; got {name!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no folder: make it first")
    return path


def _pixels(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of pixels; got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
