"""Export a detector to a file for other runtimes.

python -m model.export SOURCE --to model.onnx [--resize] [--height H --width W] [--check [IMAGE ..]]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.config.settings import ConfigError
from model.optional_packages import MissingPackagesError, require_packages
from model.weights.report import WeightsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a detector, and compare the file with it if ``--check`` is given.

    Returns:
        0 on success; 1 if the weights cannot be read, or the detections of the file differ; 2 if
        the command line or the config is invalid, or the extra ``export`` is not installed.
    """
    parser = _make_parser()
    options = parser.parse_args(arguments)
    if (options.height is None) != (options.width is None):
        parser.error("give --height and --width together, or neither for images of any size")
    if options.resize and (options.height is not None or options.to.suffix != ".onnx"):
        parser.error("--resize is for .onnx files, and takes images of any size: no --height")
    try:
        return _export(options)
    except (ConfigError, MissingPackagesError) as error:
        print(error, file=sys.stderr)
        return 2


def _export(options: argparse.Namespace) -> int:
    if options.to.suffix == ".onnx":
        checker = () if options.check is None else ("onnxruntime",)
        # Before the weights are loaded.
        require_packages("ONNX export", "export", ("onnx", "onnxscript", *checker))
    # After parsing, so that --help does not wait for torch.
    from model.export.exported_file import check_exported_file, write_exported_file  # noqa: PLC0415
    from model.export.program import ExportError  # noqa: PLC0415
    from model.structures import ImageSize  # noqa: PLC0415
    from model.weights import load_network  # noqa: PLC0415

    size = None if options.height is None else ImageSize(options.height, options.width)
    try:
        detector = load_network(options.source, options.config)
        write_exported_file(detector, options.to, size, options.resize)
        sizes = f"{size.height} x {size.width} pixels" if size else "any size"
        print(f"wrote {options.to} for images of {sizes}")
        return (
            0
            if options.check is None
            else check_exported_file(detector, options.to, options.check, size, options.resize)
        )
    except (ExportError, WeightsError) as error:
        print(error, file=sys.stderr)
        return 1


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.export", description=__doc__)
    parser.add_argument("source", help="weights as for model.load_detector: a folder or a file")
    parser.add_argument("--config", help="a YAML file with a model section")
    parser.add_argument(
        "--to", required=True, type=_output_path, help="the file: .onnx, or .pt2 of torch.export"
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="let the file resize images, and return boxes in pixels of the original images",
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
