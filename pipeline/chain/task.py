"""One attempt at a stage, in a Ray task: run it, keep its log, and write its record last."""

import logging
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import ray

from pipeline import storage
from pipeline.chain.failures import StageFailure, describe_failure
from pipeline.chain.stage import Facts, Outcome, StageRecord, stage_folder, write_record
from pipeline.chain.stages import chain_stages, stage_config
from pipeline.cluster import prepare_environment
from pipeline.config import RunConfig
from pipeline.console import PACKAGES, show_worker_logs

LOG_FILE = "log.txt"


def log_url(output: str, stage: str) -> str:
    """Return where the log of a stage's last attempt is."""
    return storage.join(stage_folder(output, stage), LOG_FILE)


def run_stage(
    name: str, config: RunConfig, facts: Facts, outcomes: Mapping[str, Outcome]
) -> StageRecord | StageFailure:
    """Run a stage once.

    Args:
        name: name of the stage.
        config: settings of the chain.
        facts: what the result depends on, for the record.
        outcomes: of all finished stages.

    Returns:
        The record, which is written, or why the attempt failed.
    """
    prepare_environment()
    stage = next(each for each in chain_stages(config) if each.name == name)
    started = time.monotonic()
    with show_worker_logs(), _logged_to(log_url(config.output, name)) as log:
        try:
            outcome = stage.run(stage_config(config, stage, outcomes), outcomes)
        except Exception as error:
            # The chain shows one line; the log has the rest.
            log.error("%s", traceback.format_exc())
            return describe_failure(error)
        except BaseException:
            log.error("stopped\n%s", traceback.format_exc())
            raise
    if _is_canceled():
        # The interrupt was lost, for example in a callback whose exceptions Python ignores.
        raise KeyboardInterrupt(f"stage {name} was stopped")
    record = StageRecord(
        stage=name,
        facts=facts,
        outcome=outcome,
        seconds=round(time.monotonic() - started, 1),
        finished=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
    )
    write_record(config.output, record)
    return record


def _is_canceled() -> bool:
    """Whether the chain has stopped this attempt; False outside of a task."""
    if not ray.is_initialized() or ray.get_runtime_context().get_task_id() is None:
        return False
    return bool(ray.get_runtime_context().is_canceled())


@contextmanager
def _logged_to(url: str) -> Iterator[logging.Logger]:
    """Copy the log lines of our packages to a file; yield a logger that writes to it alone."""
    local = storage.local_path(url)
    with tempfile.TemporaryDirectory(prefix="stage-log-") as scratch:
        path = local or Path(scratch) / LOG_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        loggers = [logging.getLogger(package) for package in PACKAGES]
        own = logging.Logger(__name__)
        for logger in (*loggers, own):
            logger.addHandler(handler)
        try:
            yield own
        finally:
            for logger in (*loggers, own):
                logger.removeHandler(handler)
            handler.close()
            if local is None:
                _upload(path, url)


def _upload(path: Path, url: str) -> None:
    try:
        storage.upload_file(path, url)
    except storage.StorageError as error:  # must not hide the stage's own error
        logging.getLogger(__name__).warning("the log of the stage is lost: %s", error)
