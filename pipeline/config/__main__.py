"""Convert config files of other projects.

python -m pipeline.config import OLD.yaml [--to NEW.yaml]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.config.settings import ConfigError
from pipeline.config.maskrcnn_benchmark.convert import import_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 success, even if keys were skipped; 1 the file cannot be imported or written.
    """
    options = _parser().parse_args(arguments)
    try:
        imported = import_config(options.source)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if imported.skipped:
        print("skipped:", file=sys.stderr)
        for key in imported.skipped:
            print(f"  {key}", file=sys.stderr)
    if options.to is None:
        print(imported.yaml(), end="")
        return 0
    target = Path(options.to)
    try:
        if target.exists() and target.samefile(options.source):
            print(f"{target} is the original file; write to another", file=sys.stderr)
            return 1
        target.write_text(imported.yaml())
    except OSError as error:
        print(f"cannot write {target}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"written to {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="convert a config file of maskrcnn-benchmark")
    command.add_argument("source", metavar="OLD.yaml")
    command.add_argument("--to", metavar="NEW.yaml", help="output file; default: standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
