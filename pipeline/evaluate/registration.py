"""The registration job: the checkpoint that the output's evaluation measured becomes a version."""

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.evaluation import EVALUATION, REPORT_NAME
from pipeline.track.model_registry import register_model
from pipeline.track.promotion import RegisteredVersion


def register_evaluated(config: RunConfig) -> RegisteredVersion:
    """Register what ``{output}/evaluation/report.json`` measured, with its metrics.

    Raises:
        FileNotFoundError: nothing has been evaluated in this output.
        ValueError: ``track.champion_metric`` was not measured.
    """
    report_url = storage.join(config.output, EVALUATION, REPORT_NAME)
    if not storage.exists(report_url):
        raise storage.MissingFileError(
            f"there is no evaluation at {report_url}; run workflows/evaluate.py first"
        )
    report = storage.read_json(report_url)
    return register_model(
        config,
        checkpoint_url=report["weights"],
        metrics=report["metrics"]["values"],
        run_id=report["run_id"],
        dataset_digest=report["dataset_digest"],
    )
