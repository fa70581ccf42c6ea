"""The registration job: register the checkpoint that the output's evaluation measured."""

from dataclasses import dataclass

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.champion_comparison import ChampionComparison, check_promotion_rules
from pipeline.evaluate.metrics import ClassMetrics, measured_metrics
from pipeline.evaluate.report import REPORT_JSON
from pipeline.output_layout import evaluation_url, from_portable
from pipeline.storage.records import parse_record
from pipeline.track.model_registry import register_model
from pipeline.track.promotion_record import RegisteredVersion


def check_champion_metric(config: RunConfig) -> None:
    """Check before a training that its evaluation will measure ``track.champion_metric``.

    Raises:
        ConfigError: it is no metric of this detector, or ``track.promotion`` does not fit it.
    """
    check_promotion_rules(config)
    metric, names = config.track.champion_metric, measured_metrics(config.model)
    if metric not in names:
        raise ConfigError(
            [f"track.champion_metric: {metric} is not measured for this detector; use {names[0]}"]
        )


@dataclass(frozen=True)
class _MeasuredValues:
    values: dict[str, float]
    per_class: tuple[ClassMetrics, ...] = ()


@dataclass(frozen=True)
class _MeasuredCheckpoint:
    """What the registration reads of ``report.json``."""

    weights: str
    metrics: _MeasuredValues
    run_id: str
    dataset_digest: str


def check_evaluated(config: RunConfig) -> None:
    """Check that there is an evaluation to register; needs no Ray.

    Raises:
        FileNotFoundError: this output has no evaluation.
        DamagedRecordError: the file is not the report of an evaluation.
        ConfigError: ``track.promotion`` does not fit ``track.champion_metric``.
    """
    check_promotion_rules(config)
    _read_measured(config)


def register_evaluated(config: RunConfig) -> RegisteredVersion:
    """Register the checkpoint of the evaluation on ``evaluate.split``, with its metrics.

    Raises:
        FileNotFoundError, DamagedRecordError, ConfigError: as in `check_evaluated`.
        TrackingError: ``track.champion_metric`` was not measured.
    """
    check_promotion_rules(config)
    report = _read_measured(config)
    return register_model(
        config,
        checkpoint_url=report.weights,
        metrics=report.metrics.values,
        run_id=report.run_id,
        dataset_digest=report.dataset_digest,
        compare=ChampionComparison(
            config, report.weights, report.dataset_digest, report.metrics.per_class
        ),
    )


def _read_measured(config: RunConfig) -> _MeasuredCheckpoint:
    report_url = storage.join(evaluation_url(config), REPORT_JSON)
    if not storage.exists(report_url):
        raise storage.MissingFileError(
            f"there is no evaluation at {report_url}; run maskrcnn-ray evaluate first"
        )
    return parse_record(
        from_portable(storage.read_json(report_url), config.output),
        _MeasuredCheckpoint,
        report_url,
        "run maskrcnn-ray evaluate again",
    )
