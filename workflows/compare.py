"""Compare two detectors on the same images: what got better, what worse, and how certain it is."""

import argparse
import functools
import logging
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence

from model.config.settings import ConfigError
from model.config.settings_table import list_settings
from model.optional_packages import MissingPackagesError
from pipeline import storage
from pipeline.config import RunConfig, load_config
from pipeline.console import show_logs
from pipeline.output_layout import COMPARISON_FOLDER
from workflows.command_line import require_job_packages

logger = logging.getLogger(__name__)

DEFAULT_OUTPUT = "runs/comparison"
"""Output without a configuration that names one."""

SECTIONS = ("evaluate", "data", "track")
_SETTING = re.compile(r"[a-z_0-9.]+=")


def plan(config: RunConfig) -> str:
    """Say where the report is written."""
    return f"report in {storage.join(config.output, COMPARISON_FOLDER)}"


def job(config: RunConfig, model_a: str, model_b: str, evaluate_missing: bool = False) -> str:
    """Compare and return the differences."""
    from pipeline.evaluate.comparison import run_comparison

    result = run_comparison(config, model_a, model_b, evaluate_missing)
    report = result.report
    return (
        f"{report.conclusion()}\n"
        f"images      {len(report.better)} better, {len(report.worse)} worse, "
        f"{report.unchanged} unchanged ({report.kind})\n"
        f"report      {result.report_url}\n"
        f"MLflow      {result.run_url}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the settings, compare, and print the differences; return the exit status."""
    parser = _parser()
    given = parser.parse_intermixed_args(arguments)
    settings = [each for each in given.arguments if _SETTING.match(each)]
    names = [each for each in given.arguments if each not in settings]
    configs = [each for each in names if each.endswith((".yaml", ".yml"))]
    models = [each for each in names if each not in configs]
    if len(configs) > 1:
        parser.error(f"give one configuration, not {' and '.join(configs)}")
    try:
        if configs:
            config = load_config(configs[0], settings)
        else:
            config = load_config(os.devnull, [f"output={DEFAULT_OUTPUT}", *settings])
        if len(models) != 2:
            parser.error(f"give two detectors to compare; got {len(models)}")
        run = functools.partial(
            job, model_a=models[0], model_b=models[1], evaluate_missing=given.evaluate
        )
        require_job_packages(config)
        with show_logs():
            logger.info("%s: comparing %s with %s; %s", parser.prog, *models, plan(config))
            return _run(run, config, parser.prog)
    except (ConfigError, MissingPackagesError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; start it again to continue", file=sys.stderr)
        return 130


def _run(run: Callable[[RunConfig], str], config: RunConfig, program: str) -> int:
    # PyTorch and MLflow take seconds to import; --help and wrong settings do not wait for them.
    logger.info("loading PyTorch and MLflow")
    from model.weights import WeightsError
    from pipeline.infer.inference_worker import InferenceError
    from pipeline.storage import StorageError
    from pipeline.track.mlflow_store import TrackingError

    try:
        print(run(config), flush=True)
    except (InferenceError, StorageError, TrackingError, WeightsError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    description = """
    Compares the AP of two detectors that workflows/evaluate.py has evaluated on the same shards,
    with the confidence interval of a paired bootstrap over the images; lists the images and classes
    that got better and worse; and draws ground truth and both detectors side by side. Each detector
    is a run folder, the folder of an evaluation, or models:/name@alias, whose evaluation is in
    MLflow. Writes {output}/comparison/report.md and comparison.json; without CONFIG.yaml and
    output=URL, the output is runs/comparison."""
    example = "python workflows/compare.py runs/first runs/second"
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(description).strip(),
        epilog=(
            f"example:\n  {example}\n\nkeys that this job reads (docs/CONFIG.md lists all):\n"
            f"{_describe_keys()}"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [-h] [--evaluate] MODEL_A MODEL_B [CONFIG.yaml] [key=value ...]",
    )
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="evaluate a detector that has no evaluation on these images",
    )
    return parser


def _describe_keys() -> str:
    shown = {"output", "seed", *SECTIONS}
    return "\n".join(
        f"  {row.key} = {row.default}  ({row.type})\n"
        f"{textwrap.fill(row.description, 90, initial_indent=' ' * 6, subsequent_indent=' ' * 6)}"
        for row in list_settings(RunConfig)
        if row.key.split(".")[0] in shown
    )


if __name__ == "__main__":
    sys.exit(main())
