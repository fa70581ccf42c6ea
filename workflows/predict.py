"""Predict on images, videos or a camera, and draw the results: no config, no cluster."""

import argparse
import enum
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from model.config.settings import ConfigError, check_settings
from model.optional_packages import MissingPackagesError
from pipeline.config.predict import PredictConfig
from pipeline.console import show_logs

if TYPE_CHECKING:
    from pipeline.predict.prepare import Summary

# Not __name__, which is __main__ here: only the lines of our packages are shown.
logger = logging.getLogger("workflows.predict")


class ExitStatus(enum.IntEnum):
    """The exit status of this job."""

    DONE = 0
    FAILED = 1
    WRONG_SETTINGS = 2
    UNREADABLE_INPUTS = 5
    INTERRUPTED = 130


_DESCRIPTION = """\
Detects objects in images, videos or a camera's frames and writes them with masks, boxes, keypoints
and names drawn on. MODEL is a run's folder, a checkpoint, a weights file of any supported library,
or models:/name@alias. INPUT is an image, a video, a folder or a pattern, also in object stores.
"""

_EPILOG = """\
examples:
  maskrcnn-ray predict runs/quickstart photos/ street.mp4 --output drawn
  maskrcnn-ray predict weights.pth photo.jpg --classes person,car --min-score 0.7 --show

exit status: 0 success, 1 failed, 2 wrong settings, 5 finished, but some inputs could not be read,
130 interrupted (what was done stays)
"""


def main(arguments: Sequence[str] | None = None) -> ExitStatus:
    """Check the settings, predict, and print a summary; return the exit status."""
    started_s = time.monotonic()
    parser = _parser()
    options = vars(parser.parse_intermixed_args(arguments))
    stated = {name: value for name, value in options.items() if value is not None}
    try:
        config: PredictConfig = check_settings(
            PredictConfig, stated, context={"folder": Path.cwd()}
        )
        with show_logs():
            target = config.output_url or "a window"
            source = f"camera {config.webcam}" if config.webcam else f"{', '.join(config.inputs)}"
            logger.info("%s: predicting on %s; results in %s", parser.prog, source, target)
            return _run(config, parser.prog, started_s)
    except (ConfigError, MissingPackagesError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return ExitStatus.WRONG_SETTINGS
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted before the first result", file=sys.stderr)
        return ExitStatus.INTERRUPTED


def _run(config: PredictConfig, program: str, started_s: float) -> ExitStatus:
    from pipeline.predict.errors import PredictError
    from pipeline.predict.prepare import prepare
    from pipeline.storage import StorageError

    try:
        job = prepare(config)
    except (PredictError, StorageError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return ExitStatus.FAILED
    # PyTorch takes seconds to import; a wrong path does not wait for it.
    logger.info("found %d images, %d videos; loading PyTorch and the detector", *job.counts)
    from model.weights import WeightsError
    from pipeline.predict.run import PredictRun

    status, message = ExitStatus.DONE, ""
    try:
        run = PredictRun(job, started_s)
        try:
            run.run()
        except KeyboardInterrupt:
            status, message = ExitStatus.INTERRUPTED, "interrupted; what was done stays"
        summary = run.summary
        print(_format(summary, config), flush=True)
        if summary.failed and status == ExitStatus.DONE:
            count = len(summary.failed)
            status = ExitStatus.UNREADABLE_INPUTS
            message = f"{count} input{'s' * (count > 1)} could not be read completely; see above"
    except (PredictError, WeightsError, StorageError) as error:
        status, message = ExitStatus.FAILED, str(error)
    if message:
        print(f"{program}: {message}", file=sys.stderr)
    return status


def _format(summary: "Summary", config: PredictConfig) -> str:
    first = summary.first_result_s
    lines = [
        f"images      {summary.images}",
        f"videos      {summary.videos} ({summary.frames} frames)" if summary.frames else "",
        f"objects     {summary.objects}",
        f"unreadable  {len(summary.failed)}" if summary.failed else "",
        f"first       after {first:.1f} s" if first is not None else "",
        f"output      {config.output_url}" if config.output_url else "",
    ]
    return "\n".join(line for line in lines if line)


def _parser() -> argparse.ArgumentParser:
    fields = PredictConfig.model_fields
    parser = argparse.ArgumentParser(
        prog=None if Path(sys.argv[0]).suffix == ".py" else sys.argv[0],
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=None,
    )

    def add(name: str, *flags: str, **options: object) -> None:
        text = (fields[name].description or "").replace("%", "%%")
        parser.add_argument(*flags, dest=name, help=text, **options)  # type: ignore[arg-type]

    parser.add_argument("model", metavar="MODEL", help=fields["model"].description)
    parser.add_argument("inputs", metavar="INPUT", nargs="*", help=fields["inputs"].description)
    add("output", "--output", metavar="DIR")
    add("show", "--show", action="store_const", const=True)
    add("min_score", "--min-score", metavar="SCORE", type=float)
    add("classes", "--classes", metavar="NAME,NAME", type=_names)
    add("webcam", "--webcam", metavar="CAMERA")
    add("json_results", "--json", action="store_const", const=True)
    add("annotations", "--annotations", metavar="FORMAT,FORMAT", type=_names)
    add("image_prefix", "--image-prefix", metavar="URL")
    add("crops", "--crops", action="store_const", const=True)
    add("overwrite", "--overwrite", action="store_const", const=True)
    add("config", "--config", metavar="CONFIG.yaml")
    add("short_side", "--short-side", metavar="PIXELS", type=int)
    add("tiles", "--tiles", metavar="PIXELS", type=int)
    add("batch", "--batch", metavar="IMAGES", type=int)
    add("device", "--device", choices=("auto", "cpu", "cuda"))
    add("precision", "--precision", choices=("fp32", "bf16", "fp16"))
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
