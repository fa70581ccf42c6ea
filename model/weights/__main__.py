"""Weights of any ecosystem as a folder of ours, or looked into.

python -m model.weights convert SOURCE --to FOLDER
python -m model.weights inspect SOURCE
"""

import argparse
import sys
from collections.abc import Sequence

from model.config import ModelConfig
from model.config.settings import ConfigError, check_settings
from model.config.yaml_files import compose_yaml
from model.weights.architecture.backbone import infer_backbone
from model.weights.load import read_detector
from model.weights.read import read_source
from model.weights.report import WeightsError
from model.weights.storage.files import save_detector


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 done, 1 the weights cannot be read or leave something open, 2 the config is wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        config = _config(options.source, options.config)
        detector, report = read_detector(options.source, config)
        print(report.table())
        print(report)
        if options.command == "inspect":
            return 0
        left_open = report.unexplained(options.allow_missing, options.allow_unused)
        if left_open:
            print("\n".join(["not converted:", *left_open]), file=sys.stderr)
            print("allow it by name: --allow-missing, --allow-unused", file=sys.stderr)
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


def _config(source: str, given: str | None) -> ModelConfig | None:
    """The config given, or for a backbone alone the default detector on it."""
    if given is not None:
        checked: ModelConfig = check_settings(ModelConfig, compose_yaml(given).get("model", {}))
        return checked
    conversion = read_source(source)
    if conversion.config is not None or conversion.conventions is None:
        return None
    default = ModelConfig(conventions=conversion.conventions)
    backbone = infer_backbone(conversion.tensors, default.backbone)
    return default.model_copy(update={"backbone": backbone})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.weights", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (
        ("convert", "write weights as model.safetensors and model.json"),
        ("inspect", "say what became of every tensor"),
    ):
        command = commands.add_parser(name, help=purpose)
        command.add_argument("source", help="a folder, a file or an https:// address")
        command.add_argument("--config", help="a YAML file with a model part")
        if name == "convert":
            command.add_argument("--to", required=True, help="the folder to write")
            command.add_argument(
                "--allow-missing",
                action="append",
                default=[],
                metavar="PATTERN",
                help="the detector's tensors that may stay at initialisation, such as 'fpn.*'",
            )
            command.add_argument(
                "--allow-unused",
                action="append",
                default=[],
                metavar="PATTERN",
                help="the file's tensors that may stay unused",
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
