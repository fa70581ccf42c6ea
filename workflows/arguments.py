"""The arguments of a job's command line, and the text of its ``--help``."""

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.config.settings_table import list_settings
from pipeline.config import RunConfig

Plan = Callable[[RunConfig], str]
"""Says what a job is about to do, without importing anything slow."""


@dataclass(frozen=True)
class Mode:
    """Another thing that a job can do instead, asked for by a flag.

    Args:
        flag: for example ``--check``.
        description: what it does, for ``--help``.
        job: as of `main`; with a ``value``, called with it as second argument.
        plan: as of `main`.
        value: what the flag takes, for example ``VERSION``; None if it takes nothing.
        needs_cluster: whether it needs Ray.
    """

    flag: str
    description: str
    job: Callable[..., str]
    plan: Plan
    value: str | None = None
    needs_cluster: bool = True


@dataclass(frozen=True)
class Option:
    """A flag that narrows what a job does; its value is a keyword argument of the job.

    Args:
        flag: for example ``--until``.
        value: what it takes, for example ``STAGE``.
        description: what it does, for ``--help``.
        argument: name of the job's keyword argument.
    """

    flag: str
    value: str
    description: str
    argument: str


def job_parser(
    description: str,
    example: str,
    sections: Sequence[str],
    modes: Sequence[Mode],
    options: Sequence[Option],
) -> argparse.ArgumentParser:
    """Build the parser of a job; the arguments are those of `workflows.command_line.main`."""
    shown = {"name", "output", "seed", *sections}
    keys = "\n".join(
        f"  {row.key} = {row.default}  ({row.type})\n"
        f"{textwrap.fill(row.description, 90, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"
        for row in list_settings(RunConfig)
        if row.key.split(".")[0] in shown
    )
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(description).strip(),
        epilog=(
            f"example:\n  {example}\n\nkeys that this job reads (docs/CONFIG.md lists all):\n{keys}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file, for example configs/quickstart.yaml")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="overrides a key, e.g. train.workers=2"
    )
    for mode in modes:
        kind = {"metavar": mode.value} if mode.value else {"action": "store_true", "default": None}
        parser.add_argument(mode.flag, dest=_attribute(mode.flag), help=mode.description, **kind)
    for option in options:
        parser.add_argument(
            option.flag,
            dest=_attribute(option.flag),
            metavar=option.value,
            help=option.description,
        )
    return parser


def given_modes(
    parser: argparse.ArgumentParser, given: argparse.Namespace, modes: Sequence[Mode]
) -> list[tuple[Mode, str | None]]:
    """Return the mode that the command line asks for, with its value, or nothing."""
    values = [(mode, getattr(given, _attribute(mode.flag))) for mode in modes]
    chosen = [(mode, value) for mode, value in values if value is not None]
    if len(chosen) > 1:
        parser.error(f"choose one of {' and '.join(mode.flag for mode, _ in chosen)}")
    return chosen


def given_options(given: argparse.Namespace, options: Sequence[Option]) -> dict[str, str]:
    """Return the values of the options on the command line, by keyword argument of the job."""
    return {
        option.argument: value
        for option in options
        if (value := getattr(given, _attribute(option.flag))) is not None
    }


def _attribute(flag: str) -> str:
    # Not "from": the names of arguments of functions must not be keywords of Python.
    return f"{flag.strip('-').replace('-', '_')}_flag"
