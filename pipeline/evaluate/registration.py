"""The registration job: register the checkpoint that the output's evaluation measured."""

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.report import REPORT_JSON
from pipeline.output_layout import EVALUATION_FOLDER
from pipeline.track.model_registry import register_model
from pipeline.track.promotion import RegisteredVersion


def register_evaluated(config: RunConfig) -> RegisteredVersion:
    """Register the checkpoint in ``{output}/evaluation/report.json``, with its metrics.

    Raises:
        FileNotFoundError: this output has no evaluation.
        ValueError: ``track.champion_metric`` was not measured.
    """
    report_url = storage.join(config.output, EVALUATION_FOLDER, REPORT_JSON)
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
