"""The command line that every job shares: ``python workflows/JOB.py CONFIG.yaml key=value ...``.

Settings are checked first, and each job imports what it runs only when it is called: ray, torch and
mlflow take seconds to import, and ``--help``, the refusal of a wrong key and the first line that a
job shows need none of them. Results are printed to stdout; log lines and progress to stderr.
"""

import contextlib
import enum
import functools
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence

from model.config.settings import ConfigError
from model.optional_packages import MissingPackagesError
from pipeline.config import RunConfig, load_config
from pipeline.console import show_logs
from pipeline.extras import require_extra
from workflows.arguments import Mode, Option, Plan, given_modes, given_options, job_parser

logger = logging.getLogger(__name__)

Job = Callable[..., str]
"""Runs a job on a configuration, with the values of its options, and returns its last lines."""

Check = Callable[[RunConfig], None]
"""Refuses, before Ray starts, what the job would fail on; raises the errors of the job."""


class ExitStatus(enum.IntEnum):
    """The exit status of a job (docs/CHAIN.md). ``ray job submit`` itself knows only 0 and 1."""

    DONE = 0
    FAILED = 1
    WRONG_SETTINGS = 2
    NOT_PROMOTED = 3
    IN_USE = 4
    INTERRUPTED = 130


_COLORS = re.compile(r"\x1b\[[0-9;]*m")  # Ray colors names in its messages


def _no_check(_config: RunConfig) -> None:
    pass


def main(
    description: str,
    example: str,
    job: Job,
    plan: Plan,
    sections: Sequence[str],
    arguments: Sequence[str] | None = None,
    modes: Sequence[Mode] = (),
    options: Sequence[Option] = (),
    check: Check = _no_check,
    needs_cluster: Callable[[RunConfig], bool] = lambda _: True,
    extra: Callable[[RunConfig], str] = lambda _: "train",
) -> int:
    """Check the configuration, join or start a cluster, run ``job`` and print its message.

    Args:
        description: what the job reads and writes, for ``--help``.
        example: a command line that works, for ``--help``.
        job: runs the job and returns its closing message.
        plan: says what the job is about to do, in the first line that it shows.
        sections: the sections of the configuration that the job reads, for ``--help``.
        arguments: the command line; default ``sys.argv``.
        modes: what the job can do instead.
        options: flags that narrow what the job, or one of its modes, does.
        check: refuses inputs before Ray starts; not called for ``modes``.
        needs_cluster: whether the job needs Ray with this configuration.
        extra: the extra of the installation that the job needs with this configuration.

    Returns:
        An `ExitStatus`.
    """
    parser = job_parser(description, example, sections, modes, options)
    # Intermixed: flags may also stand between the settings.
    given = parser.parse_intermixed_args(arguments)
    values = given_options(given, options)
    for mode, mode_value in given_modes(parser, given, modes):
        job, plan, check = functools.partial(_run_mode, mode, mode_value), mode.plan, _no_check
        if not mode.needs_cluster:
            needs_cluster = _no_cluster
    try:
        config = load_config(given.config, given.settings)
        require_job_packages(config, extra(config))
        with show_logs():
            logger.info("%s: %s", parser.prog, plan(config))
            run = functools.partial(job, **values)
            status = _run(run, check, config, parser.prog, needs_cluster(config))
            # After a failure, the reason stays the last line of the log.
            if "track" in sections and status == ExitStatus.DONE:
                _show_unsent(config, [given.config, *given.settings])
            return status
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; start it again to continue", file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except (ConfigError, MissingPackagesError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return ExitStatus.WRONG_SETTINGS


def require_job_packages(config: RunConfig, extra: str = "train") -> None:
    """Check that the packages of a job are installed.

    Args:
        config: the job's settings.
        extra: the extra of the installation that the job needs.

    Raises:
        MissingPackagesError: an extra is not installed; the message names it.
    """
    require_extra(extra, "this job")
    uri = config.track.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("postgresql"):
        require_extra("postgres", "MLflow's store in PostgreSQL")


def _no_cluster(_config: RunConfig) -> bool:
    return False


def _run_mode(mode: Mode, value: str | None, config: RunConfig, **options: str) -> str:
    arguments = (config,) if mode.value is None else (config, value)
    return mode.job(*arguments, **options)


def _run(job: Job, check: Check, config: RunConfig, program: str, needs_cluster: bool) -> int:
    # Imported late: see the module's docstring.
    logger.info("loading PyTorch, Ray and MLflow")
    from ray.exceptions import RayError, RayTaskError

    from model.weights import WeightsError
    from pipeline import cluster
    from pipeline.chain.failures import StageError
    from pipeline.cluster import ClusterError
    from pipeline.infer.inference_worker import InferenceError
    from pipeline.serve.errors import ListenError, ServeError
    from pipeline.storage import StorageError
    from pipeline.storage.exclusive_use import FolderInUseError
    from pipeline.sweep.sweep_record import SweepError
    from pipeline.track.mlflow_store import TrackingError
    from pipeline.track.promotion_record import NotPromotedError
    from pipeline.train.checkpoint import CheckpointError
    from pipeline.train.failures import TrainingError, error_message
    from pipeline.train.run_record import RunMismatchError

    # Problems with a job's environment or inputs. Their messages say what to do, so they are
    # printed without a traceback; any other exception is a bug and keeps its own.
    expected_errors = (
        CheckpointError,
        ClusterError,
        InferenceError,
        NotPromotedError,
        RunMismatchError,
        ServeError,
        StageError,
        StorageError,
        SweepError,
        TrackingError,
        TrainingError,
        WeightsError,
    )
    try:
        check(config)
        with cluster.session() if needs_cluster else contextlib.nullcontext():
            print(job(config), flush=True)
    except expected_errors as error:
        # An error of a Ray task is also a RayTaskError, whose text is the task's traceback.
        print(f"{program}: {getattr(error, 'cause', error)}", file=sys.stderr)
        kind = error.failure.kind if isinstance(error, StageError) else None
        if kind == "settings" or isinstance(error, ListenError):
            return ExitStatus.WRONG_SETTINGS
        if kind == "in_use" or isinstance(error, FolderInUseError):
            return ExitStatus.IN_USE
        is_refusal = isinstance(error, NotPromotedError)
        return ExitStatus.NOT_PROMOTED if is_refusal else ExitStatus.FAILED
    except RayTaskError:
        raise
    except RayError as error:
        # A machine or process was lost, or memory ran out: no bug of a job.
        first_line = _COLORS.sub("", error_message(error).splitlines()[0])
        print(
            f"{program}: Ray stopped the job ({first_line}). Check the machines of the cluster "
            "and their memory, then submit the job again: it continues.",
            file=sys.stderr,
        )
        return ExitStatus.FAILED
    return ExitStatus.DONE


def _show_unsent(config: RunConfig, arguments: Sequence[str]) -> None:
    """Print how much MLflow has not yet of the output's runs, and the command that sends it."""
    # Imported late: see the module's docstring.
    from pipeline.storage import StorageError
    from pipeline.track.mlflow_store import hide_password
    from pipeline.track.send_unsent import count_unsent

    try:
        unsent = count_unsent(config.output)
    except StorageError as error:
        logger.warning("what MLflow does not have yet is not known: %s", error)
        return
    if unsent.runs:
        shown = [hide_password(each) for each in arguments]
        command = shlex.join(["maskrcnn-ray", "send_unsent", *shown])
        note = "" if shown == [*arguments] else " (with the password in place of ***)"
        print(f"not sent    {unsent}, which MLflow did not take; send them with{note}\n  {command}")


def format_values(values: Mapping[str, object], prefix: str = "") -> str:
    """Return a line ``name  value`` for each name that starts with ``prefix``, without it."""
    selected = {
        name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)
    }
    return "\n".join(
        f"{name:<11} {value:.4g}" if isinstance(value, float) else f"{name:<11} {value}"
        for name, value in selected.items()
    )
