"""Config files of other projects become ours.

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
        0 done, whatever was not carried; 1 the file cannot be imported or written.
    """
    options = _parser().parse_args(arguments)
    try:
        imported = import_config(options.source)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if imported.not_carried:
        print("not carried:", file=sys.stderr)
        for left in imported.not_carried:
            print(f"  {left}", file=sys.stderr)
    if options.to is None:
        print(imported.yaml(), end="")
        return 0
    target = Path(options.to)
    try:
        if target.exists() and target.samefile(options.source):
            print(f"{target} is the file itself; write to another", file=sys.stderr)
            return 1
        target.write_text(imported.yaml())
    except OSError as error:
        print(f"cannot write {target}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"written to {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.config", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("import", help="read a config file of maskrcnn-benchmark")
    command.add_argument("source", metavar="OLD.yaml")
    command.add_argument("--to", metavar="NEW.yaml", help="the file to write; default: print it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
