"""Compare an evaluated version with the champion by the rules of ``track.promotion``.

A champion that was measured on other data is measured on this data first. So is one whose values
per class or per image are needed. Its results are kept in ``{output}/champion/evaluation``, and
predictions that were made before are used again.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion

from model.config.settings import ConfigError
from model.weights import WeightsError
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.evaluation import EvaluationResult, run_evaluation
from pipeline.evaluate.image_table import IMAGE_TABLE, read_image_table
from pipeline.evaluate.latency import compare_latency
from pipeline.evaluate.metrics import ClassMetrics
from pipeline.evaluate.table_comparison import DifferentDataError, compare_tables, is_comparable
from pipeline.output_layout import (
    CHAMPION_FOLDER,
    EVALUATION_FOLDER,
    evaluated_shards_url,
    evaluation_url,
)
from pipeline.track.mlflow_store import TrackingError, open_store, tracking_uri
from pipeline.track.promotion import measured_value, tag_measurement
from pipeline.track.promotion_rules import (
    ClassValue,
    Finding,
    is_measured,
    judge_classes,
    judge_interval,
    judge_latency,
)

logger = logging.getLogger(__name__)


def check_promotion_rules(config: RunConfig) -> None:
    """Check before anything runs that the rules can be applied to ``track.champion_metric``.

    Raises:
        ConfigError: the metric has no values per image, or none per class.
    """
    metric, rules = config.track.champion_metric, config.track.promotion
    problems = []
    if rules.confidence is not None and not is_comparable(metric):
        problems.append(
            f"track.promotion.confidence: {metric} cannot be resampled; use AP, AP50 or AP75 of "
            "bbox, segm or keypoints as track.champion_metric"
        )
    if rules.max_class_drop is not None and metric.startswith("proposals/"):
        problems.append(f"track.promotion.max_class_drop: {metric} has no values per class")
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True)
class ChampionComparison:
    """Compares the version that the output's evaluation measured with a champion.

    Args:
        config: the job's settings.
        weights: the checkpoint of the version.
        dataset_digest: digest of the data it was measured on.
        per_class: its values per class.
    """

    config: RunConfig
    weights: str
    dataset_digest: str
    per_class: Sequence[ClassMetrics]

    def __call__(self, champion: ModelVersion) -> list[Finding]:
        """Return what the further rules say about the version and this champion."""
        metric, rules = self.config.track.champion_metric, self.config.track.promotion
        known = is_measured(measured_value(champion, self.dataset_digest, metric))
        if known and rules.max_class_drop is None and rules.confidence is None:
            return self._judge_latency(champion)
        try:
            measured = self._measure(champion)
        except (ConfigError, WeightsError, TrackingError, DifferentDataError) as error:
            text = f"champion {champion.version} cannot be measured on this data: {error}"
            return [Finding(False, " ".join(text.split()))]
        return [
            *self._judge_classes(measured),
            *self._judge_interval(),
            *self._judge_latency(champion),
        ]

    def _measure(self, champion: ModelVersion) -> EvaluationResult:
        """Evaluate the champion on this data, and record its metric in the registry."""
        config, number = self.config, str(champion.version)
        shards_url = evaluated_shards_url(config)
        logger.info("measuring champion %s on %s", number, shards_url)
        track = config.track.model_copy(update={"uri": tracking_uri(config)})
        data = config.data.model_copy(update={"val_shards": shards_url})
        own = config.model_copy(
            update={
                "name": f"{config.name}-champion",
                "output": storage.join(config.output, CHAMPION_FOLDER),
                "track": track,
                "data": data,
                "evaluate": config.evaluate.model_copy(update={"pictures": 0, "split": "val"}),
            }
        )
        result = run_evaluation(own, weights=f"models:/{champion.name}/{number}")
        metric = config.track.champion_metric
        value = result.metrics.get(metric, -1.0)
        if is_measured(value) and champion.tags.get("dataset_digest") != self.dataset_digest:
            client = open_store(config)
            tag_measurement(client, champion.name, number, self.dataset_digest, metric, value)
        return result

    def _judge_classes(self, measured: EvaluationResult) -> list[Finding]:
        rules, metric = self.config.track.promotion, self.config.track.champion_metric
        if rules.max_class_drop is None:
            return []
        own, other = (_class_values(rows, metric) for rows in (self.per_class, measured.per_class))
        return [judge_classes(own, other, rules.max_class_drop, rules.min_class_objects)]

    def _judge_interval(self) -> list[Finding]:
        rules, metric = self.config.track.promotion, self.config.track.champion_metric
        if rules.confidence is None:
            return []
        output = self.config.output
        champion, own = (
            read_image_table(storage.join(folder, IMAGE_TABLE))
            for folder in (
                storage.join(output, CHAMPION_FOLDER, EVALUATION_FOLDER),
                evaluation_url(self.config),
            )
        )
        compared = compare_tables(champion, own, metric, confidence=rules.confidence)
        low, high = compared.overall.low, compared.overall.high
        if math.isnan(low):
            return [Finding(False, f"the difference in {metric} cannot be resampled")]
        return [judge_interval(metric, low, high, rules.confidence, compared.images)]

    def _judge_latency(self, champion: ModelVersion) -> list[Finding]:
        slowdown = self.config.track.promotion.max_slowdown
        if slowdown is None:
            return []
        source = f"models:/{champion.name}/{champion.version}"
        return [judge_latency(compare_latency(self.config, self.weights, source), slowdown)]


def _class_values(rows: Sequence[ClassMetrics], metric: str) -> dict[str, ClassValue]:
    """Return the AP of each class by its name, of the kind of the metric that decides."""
    kind = metric.partition("/")[0]
    key = metric if kind == "voc" else f"{kind}/AP"
    return {row.name: ClassValue(row.values.get(key, -1.0), row.objects) for row in rows}
