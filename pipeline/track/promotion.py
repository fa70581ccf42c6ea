"""Promote a version to champion if it has the best metric on the same dataset."""

import logging
import math
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)

CHAMPION = "champion"
METRIC_TAG = "metric/"


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
    client: MlflowClient, name: str, version: ModelVersion, metric: str
) -> RegisteredVersion:
    """Move the champion alias to ``version`` if it beats the champion on the same dataset.

    Args:
        client: client of the registry.
        name: name of the registered model.
        version: has ``dataset_digest`` and its metrics as tags.
        metric: name of the metric that decides; higher is better.
    """
    champion = _champion(client, name)
    value = float(version.tags[METRIC_TAG + metric])
    champion_value: float | None = None
    if champion is not None and str(champion.version) == str(version.version):
        promoted, reason = True, "it is already the champion"
    elif not math.isfinite(value) or value == -1:
        promoted, reason = False, f"{metric} could not be measured"
    elif champion is None:
        promoted, reason = True, "there was no champion"
    elif champion.tags.get("dataset_digest") != version.tags["dataset_digest"]:
        promoted = False
        reason = (
            f"champion {champion.version} was measured on another dataset; evaluate it on this "
            "one, or move the alias manually"
        )
    else:
        champion_value = float(champion.tags.get(METRIC_TAG + metric, "-inf"))
        promoted = value > champion_value
        reason = (
            f"{metric} {value:.4f} {'beats' if promoted else 'does not beat'} "
            f"{champion_value:.4f} of champion {champion.version}"
        )
    if promoted:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    logger.info(
        "%s version %s %s: %s",
        name,
        version.version,
        "is the champion" if promoted else "is registered but not promoted",
        reason,
    )
    return RegisteredVersion(name, str(version.version), promoted, champion_value, reason)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    # Looked up in the model itself, so that nothing but a missing alias means "no champion".
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if alias is None else client.get_model_version(name, alias)
