"""Promote a version to champion if it has the best metric on the same dataset.

Several jobs may promote at the same moment, on one registry that has no transactions. Each first
marks its version as pending, and after each change of the alias reads again, until the alias is at
the best version that it sees. Whoever changes it last therefore sees every version that was marked
before, and a version that is marked later is compared by its own job. A job that dies leaves its
version pending: the next job compares it as well.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from pipeline.track.mlflow_store import TrackingError

logger = logging.getLogger(__name__)

CHAMPION = "champion"
PREVIOUS = "previous"
METRIC_TAG = "metric/"
PROMOTION_TAG = "promotion"
PENDING, PROMOTED, REFUSED = "pending", "promoted", "refused"
ROLLED_BACK = "rolled back"

# Each round is caused by another job's promotion in the same moment.
_MAX_ROUNDS = 100


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the registry.

    Args:
        name: name of the registered model.
        version: MLflow's number of the version.
        promoted: whether it is the champion now.
        champion_metric_value: metric of the champion that it was compared with; None if it was not
            compared.
        reason: why it was or was not promoted, in one sentence.
    """

    name: str
    version: str
    promoted: bool
    champion_metric_value: float | None
    reason: str


def promote(
    client: MlflowClient,
    name: str,
    version: ModelVersion,
    metric: str,
    minimum: float | None = None,
) -> RegisteredVersion:
    """Move the champion alias to ``version`` if it beats the champion on the same dataset.

    Args:
        client: client of the registry.
        name: name of the registered model.
        version: has ``dataset_digest`` and its metrics as tags.
        metric: name of the metric that decides; higher is better.
        minimum: lowest value of a champion; None for any.

    Raises:
        TrackingError: other jobs kept moving the alias.
    """
    if version.tags.get(PROMOTION_TAG) == ROLLED_BACK:
        # A chain that registers the same version again must not undo what someone decided.
        reason = "it was rolled back; register.py --promote makes it the champion again"
        logger.info("%s version %s is not promoted: %s", name, version.version, reason)
        return RegisteredVersion(name, str(version.version), False, None, reason)
    if not _is_measured(version, metric):
        return _conclude(client, name, version, None, False, f"{metric} could not be measured")
    value = _value(version, metric)
    if minimum is not None and value < minimum:
        reason = f"{metric} {value:.4f} is below track.champion_minimum {minimum:g}"
        return _conclude(client, name, version, None, False, reason)
    number = str(version.version)
    client.set_model_version_tag(name, number, PROMOTION_TAG, PENDING)
    earlier = {str(each.version) for each in _marked(client, name, PROMOTED)}
    before = _champion(client, name)
    present = before
    for _ in range(_MAX_ROUNDS):
        # In this order: a version that is promoted between the two requests is in the second.
        pending, promoted = _marked(client, name, PENDING), _marked(client, name, PROMOTED)
        new = [each for each in promoted if str(each.version) not in earlier]
        rivals = [version, *pending, *new]
        best = _best(before, [each for each in rivals if _is_measured(each, metric)], metric)
        if present is not None and best.version == present.version:
            break
        client.set_registered_model_alias(name, CHAMPION, str(best.version))
        present = _champion(client, name)
    else:
        raise TrackingError(
            f"{name}: other jobs moved the alias {CHAMPION} {_MAX_ROUNDS} times; register again"
        )
    is_best = str(best.version) == number
    if is_best and before is not None and str(before.version) != number:
        client.set_registered_model_alias(name, PREVIOUS, str(before.version))
    opponent = before if is_best else best
    reason = _compare(version, opponent, metric)
    return _conclude(client, name, version, opponent, is_best, reason, metric)


def _marked(client: MlflowClient, name: str, state: str) -> list[ModelVersion]:
    """Return the versions in a state of promotion."""
    query = f"name='{name}' and tags.`{PROMOTION_TAG}`='{state}'"
    return list(client.search_model_versions(query))


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    # Looked up in the model itself, so that nothing but a missing alias means "no champion".
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if alias is None else client.get_model_version(name, alias)


def _best(
    champion: ModelVersion | None, rivals: Iterable[ModelVersion], metric: str
) -> ModelVersion:
    """Return the best version measured on the champion's dataset, the oldest of equal ones.

    Without a champion, it is the dataset of the oldest version.
    """
    versions = sorted([*([champion] if champion else []), *rivals], key=lambda v: int(v.version))
    dataset = (champion or versions[0]).tags.get("dataset_digest")
    comparable = [each for each in versions if each.tags.get("dataset_digest") == dataset]
    return max(comparable, key=lambda each: _value(each, metric))


def _value(version: ModelVersion, metric: str) -> float:
    return float(version.tags.get(METRIC_TAG + metric, "-inf"))


def _is_measured(version: ModelVersion, metric: str) -> bool:
    value = _value(version, metric)
    return math.isfinite(value) and value != -1


def _compare(version: ModelVersion, opponent: ModelVersion | None, metric: str) -> str:
    """Return in one sentence how a version compares with the champion before, or the one now."""
    if opponent is None:
        return "there was no champion"
    if opponent.version == version.version:
        return "it is already the champion"
    if opponent.tags.get("dataset_digest") != version.tags["dataset_digest"]:
        return (
            f"champion {opponent.version} was measured on another dataset; evaluate it on this "
            "one, or move the alias manually"
        )
    value, other = _value(version, metric), _value(opponent, metric)
    verb = "beats" if value > other else "does not beat"
    return f"{metric} {value:.4f} {verb} {other:.4f} of champion {opponent.version}"


def _conclude(
    client: MlflowClient,
    name: str,
    version: ModelVersion,
    opponent: ModelVersion | None,
    promoted: bool,
    reason: str,
    metric: str | None = None,
) -> RegisteredVersion:
    """Record the decision and its reason as tags of the version, and return it."""
    number = str(version.version)
    client.set_model_version_tag(name, number, "promotion_reason", reason)
    client.set_model_version_tag(name, number, PROMOTION_TAG, PROMOTED if promoted else REFUSED)
    outcome = "is the champion" if promoted else "is registered but not promoted"
    logger.info("%s version %s %s: %s", name, number, outcome, reason)
    compared = (
        opponent is not None
        and metric is not None
        and str(opponent.version) != number
        and opponent.tags.get("dataset_digest") == version.tags["dataset_digest"]
    )
    other = _value(opponent, metric) if compared and opponent and metric else None
    return RegisteredVersion(name, number, promoted, other, reason)
