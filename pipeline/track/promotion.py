"""Which version is the champion: the best on one data set, by one metric."""

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
        name: registered model.
        version: MLflow's number of the version.
        promoted: whether it is the champion now.
        champion_metric_value: the metric of the champion it met; None where there was none.
        reason: why it was promoted or not, one sentence.
    """

    name: str
    version: str
    promoted: bool
    champion_metric_value: float | None
    reason: str


def promote(
    client: MlflowClient, name: str, version: ModelVersion, metric: str
) -> RegisteredVersion:
    """Move the alias to ``version`` if it is better than the champion on the same data.

    Args:
        client: of the registry.
        name: registered model.
        version: carries ``dataset_digest`` and its metrics as tags.
        metric: the one that decides; higher is better.
    """
    champion = _champion(client, name)
    ours = float(version.tags[METRIC_TAG + metric])
    theirs: float | None = None
    if champion is not None and str(champion.version) == str(version.version):
        promoted, reason = True, "it is the champion already"
    elif not math.isfinite(ours) or ours == -1:
        promoted, reason = False, f"{metric} was not measurable"
    elif champion is None:
        promoted, reason = True, "there was no champion"
    elif champion.tags.get("dataset_digest") != version.tags["dataset_digest"]:
        promoted = False
        reason = (
            f"champion {champion.version} was measured on other data; evaluate it on this data, "
            f"or move the alias by hand"
        )
    else:
        theirs = float(champion.tags.get(METRIC_TAG + metric, "-inf"))
        promoted = ours > theirs
        reason = (
            f"{metric} {ours:.4f} {'beats' if promoted else 'does not beat'} "
            f"{theirs:.4f} of champion {champion.version}"
        )
    if promoted:
        client.set_registered_model_alias(name, CHAMPION, version.version)
    logger.info(
        "%s version %s %s: %s",
        name,
        version.version,
        "is the champion" if promoted else "is registered, not promoted",
        reason,
    )
    return RegisteredVersion(name, str(version.version), promoted, theirs, reason)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    # Asked of the model itself: only "no such alias" may mean that there is no champion.
    alias = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if alias is None else client.get_model_version(name, alias)
