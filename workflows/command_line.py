"""What the jobs' command lines share: ``JOB.py CONFIG.yaml key=value ...``."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence

from model.config.settings import ConfigError, describe_settings
from model.weights import WeightsError
from pipeline import cluster
from pipeline.config import RunConfig, load_config
from pipeline.infer.piece_worker import CountMismatchError
from pipeline.storage import StorageError
from pipeline.sweep.driver import SweepError
from pipeline.track.mlflow_run import TrackingError
from pipeline.train.checkpoint import CheckpointError
from pipeline.train.failures import TrainingError
from pipeline.train.run_record import RunMismatchError

# What can be wrong with a job's surroundings. Their texts say what to do, so they are shown without
# a traceback; any other exception is our mistake and keeps its own.
EXPECTED_ERRORS = (
    CheckpointError,
    CountMismatchError,
    RunMismatchError,
    StorageError,
    SweepError,
    TrackingError,
    TrainingError,
    WeightsError,
)

Job = Callable[[RunConfig], str]
"""Does the work and returns what to print at the end."""


def main(
    description: str,
    example: str,
    job: Job,
    sections: Sequence[str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Read the configuration, join or start a cluster, run ``job``, print its outcome.

    Args:
        description: what the job reads and writes, for ``--help``.
        example: a command line that works, for ``--help``.
        job: the work.
        sections: the parts of the configuration that the job reads, for ``--help``.
        arguments: the command line; default ``sys.argv``.

    Returns:
        The exit status: 0 done, 1 the job failed, 2 the configuration is wrong.
    """
    parser = _parser(description, example, sections)
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, options.settings)
        with cluster.session():
            print(job(config), flush=True)
    except ConfigError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except EXPECTED_ERRORS as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def figures(values: Mapping[str, object], prefix: str = "") -> str:
    """One ``name  value`` line for each value whose name begins with ``prefix``."""
    chosen = {
        name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)
    }
    return "\n".join(
        f"{name:<11} {value:.4g}" if isinstance(value, float) else f"{name:<11} {value}"
        for name, value in chosen.items()
    )


def _parser(description: str, example: str, sections: Sequence[str]) -> argparse.ArgumentParser:
    shown = {"name", "output", "seed", *sections}
    keys = "\n".join(
        f"  {row.key} = {row.default}  ({row.type})\n"
        f"{textwrap.fill(row.description, 90, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"
        for row in describe_settings(RunConfig)
        if row.key.split(".")[0] in shown
    )
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(description).strip(),
        epilog=(
            f"example:\n  {example}\n\nkeys that this job reads (docs/CONFIG.md has all):\n{keys}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="YAML file, for example configs/quickstart.yaml")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="replaces a key, e.g. train.workers=2"
    )
    return parser
