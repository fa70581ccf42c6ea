"""Inspect weights of any library, or convert them to a folder that ``load_detector`` reads.

python -m model.weights inspect SOURCE
python -m model.weights convert SOURCE --to FOLDER
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from model.config import ModelConfig
from model.config.settings import ConfigError
from model.config.yaml_files import apply_overrides
from model.weights.report import WeightsError
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 done, 1 the weights cannot be read or do not match, 2 the config is
        wrong.
    """
    options = _parser().parse_args(arguments)
    # After parsing, so that --help does not wait for torch.
    from model.weights.load import read_detector  # noqa: PLC0415
    from model.weights.storage.model_folder import save_detector  # noqa: PLC0415

    try:
        config = options.config or _backbone_config(options.source)
        detector, report = read_detector(
            options.source, config, _parse_conventions(options.convention)
        )
        print(report.table(), report, sep="\n\n")
        if options.command == "inspect":
            return 0
        if problems := report.problems(options.allow_missing, options.allow_unused):
            print("not converted, because these tensors do not match:", file=sys.stderr)
            print("\n".join(f"  {problem}" for problem in problems), file=sys.stderr)
            print(
                "To convert it anyway, pass --allow-missing PATTERN or --allow-unused PATTERN",
                file=sys.stderr,
            )
            return 1
        save_detector(detector, options.to)
        print(f"written to {options.to}")
    except WeightsError as error:
        print(error, file=sys.stderr)
        return 1
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _backbone_config(source: str) -> ModelConfig | None:
    """Return the default detector on the backbone of these weights, if they are only a backbone."""
    from model.weights.architecture.backbone import infer_backbone  # noqa: PLC0415
    from model.weights.read import read_weights  # noqa: PLC0415

    weights = read_weights(source)
    if weights.config is not None or weights.conventions is None:
        return None
    default = ModelConfig(conventions=weights.conventions)
    backbone = infer_backbone(weights.tensors, default.backbone)
    return default.model_copy(update={"backbone": backbone})


def _parse_conventions(options: Sequence[str]) -> dict[str, Any]:
    """Parse NAME=VALUE options, whose names may have dots; values are YAML.

    Raises:
        ConfigError: an option has no value, or none of YAML.
    """
    conventions = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not name or not equals:
            raise ConfigError([f"--convention {option!r}: write NAME=VALUE"])
        conventions[name] = apply_overrides({}, [f"value={text}"])["value"]
    return conventions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("inspect", "list every tensor: loaded, missing, unused or ignored"),
        ("convert", f"write {WEIGHTS_FILE} and {CONFIG_FILE}"),
    ):
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("source", help="a folder, a file or an https:// address")
        command.add_argument(
            "--config", help="YAML file with a model section: its settings of inference are used"
        )
        command.add_argument(
            "--convention",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="what the weights were trained with, if it is not what their library does by "
            "default, such as roi_aligned=false or 'rpn.anchor_sizes=[16, 32, 64, 128, 256]'",
        )
        if name == "convert":
            command.add_argument("--to", required=True, metavar="FOLDER", help="folder to write")
            command.add_argument(
                "--allow-missing",
                action="append",
                default=[],
                metavar="PATTERN",
                help="tensors of the detector that may stay at initialization, such as 'fpn.*'",
            )
            command.add_argument(
                "--allow-unused",
                action="append",
                default=[],
                metavar="PATTERN",
                help="tensors of the file that may stay unused",
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
