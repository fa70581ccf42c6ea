"""Where a registered version comes from, and which versions come from a dataset."""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.config import RunConfig
from pipeline.track.mlflow_store import TrackingError, open_store
from pipeline.track.promotion_record import METRIC_TAG

_UNKNOWN = "unknown"
_SHOWN_DIGEST = 16


@dataclass(frozen=True)
class Lineage:
    """What led to a version.

    Args:
        name: name of the registered model.
        version: its number.
        aliases: those that point at it.
        training_data: digest and URL of the training shards.
        validation_data: digest and URL of the shards that it was measured on.
        config_digest: digest of the training's settings; its run has them as ``config.yaml``.
        code_commit: commit of the code that trained it.
        parent: the weights that the training began with.
        parent_sha256: their SHA-256.
        parent_version: the version of the same model that has these weights, if any.
        weights_sha256: SHA-256 of its own weights.
        checkpoint: the checkpoint that was registered.
        run_id: MLflow run of the training.
        metrics: name -> value, on the validation data.
        decision: ``promoted``, ``refused``, ``pending`` or ``rolled back``.
        reason: why.
        decided_by: user and machine.
        decided_at: UTC.
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    training_data: tuple[str, str]
    validation_data: tuple[str, str]
    config_digest: str
    code_commit: str
    parent: str
    parent_sha256: str
    parent_version: str | None
    weights_sha256: str
    checkpoint: str
    run_id: str
    metrics: dict[str, float]
    decision: str
    reason: str
    decided_by: str
    decided_at: str

    def to_text(self) -> str:
        """Return the lineage as lines of name and value."""
        parent = self.parent
        if self.parent_version is not None:
            parent += f", which is version {self.parent_version}"
        if self.parent_sha256 not in (_UNKNOWN, "none"):
            parent += f" (SHA-256 {self.parent_sha256[:_SHOWN_DIGEST]})"
        rows = {
            "version": f"models:/{self.name}/{self.version}" + _in_brackets(self.aliases),
            "training data": "{1} (digest {0})".format(*_short(self.training_data)),
            "measured on": "{1} (digest {0})".format(*_short(self.validation_data)),
            "settings": f"config.yaml of the run (digest {self.config_digest[:_SHOWN_DIGEST]})",
            "code": self.code_commit,
            "began with": parent,
            "weights": f"{self.checkpoint} (SHA-256 {self.weights_sha256[:_SHOWN_DIGEST]})",
            "MLflow run": self.run_id,
            "metrics": "  ".join(
                f"{name} {value:.4f}"
                for name, value in self.metrics.items()
                if name.endswith(("/AP", "/AP50", "/AR1000"))
            ),
            "decision": f"{self.decision}: {self.reason}",
            "decided by": f"{self.decided_by}, {self.decided_at}",
        }
        return "\n".join(f"{name:<14} {value}" for name, value in rows.items())


def trace_version(config: RunConfig, version: str) -> Lineage:
    """Return where a version comes from.

    Args:
        config: selects the MLflow store and the registered model.
        version: number or alias.

    Raises:
        TrackingError: there is no such version.
    """
    client, name = open_store(config), config.track.model_name
    found = _find(client, name, version)
    tags = found.tags
    parent_sha256 = tags.get("initial_weights_sha256", _UNKNOWN)
    aliases = client.get_registered_model(name).aliases
    return Lineage(
        name=name,
        version=str(found.version),
        aliases=tuple(a for a, v in sorted(aliases.items()) if str(v) == str(found.version)),
        training_data=(tags.get("train_digest", _UNKNOWN), tags.get("train_shards", _UNKNOWN)),
        validation_data=(tags.get("dataset_digest", _UNKNOWN), tags.get("val_shards", _UNKNOWN)),
        config_digest=tags.get("config_digest", _UNKNOWN),
        code_commit=tags.get("code_commit", _UNKNOWN),
        parent=tags.get("initial_weights", _UNKNOWN),
        parent_sha256=parent_sha256,
        parent_version=_version_with_weights(client, name, parent_sha256),
        weights_sha256=tags.get("weights_sha256", _UNKNOWN),
        checkpoint=tags.get("checkpoint", _UNKNOWN),
        run_id=str(found.run_id or _UNKNOWN),
        metrics={
            key.removeprefix(METRIC_TAG): float(value)
            for key, value in sorted(tags.items())
            if key.startswith(METRIC_TAG)
        },
        decision=tags.get("promotion", _UNKNOWN),
        reason=tags.get("promotion_reason", _UNKNOWN),
        decided_by=tags.get("decided_by", _UNKNOWN),
        decided_at=tags.get("decided_at", _UNKNOWN),
    )


def versions_from_dataset(config: RunConfig, dataset: str) -> list[str]:
    """Return a line for each version that was trained or measured on a dataset, oldest first.

    Args:
        config: selects the MLflow store and the registered model.
        dataset: digest of shards, or its first digits; or the URL of the shards.

    Raises:
        TrackingError: there is no such registered model.
    """
    client, name = open_store(config), config.track.model_name
    _check_model(client, name)
    lines = []
    for version in sorted(_all_versions(client, name), key=lambda each: int(each.version)):
        uses = [
            use
            for use, digest_tag, url_tag in (
                ("trained on it", "train_digest", "train_shards"),
                ("measured on it", "dataset_digest", "val_shards"),
            )
            if _is_dataset(dataset, version.tags.get(digest_tag), version.tags.get(url_tag))
        ]
        if uses:
            decision = version.tags.get("promotion", _UNKNOWN)
            lines.append(f"models:/{name}/{version.version}  {', '.join(uses)}  {decision}")
    return lines


def _is_dataset(dataset: str, digest: str | None, url: str | None) -> bool:
    return bool(digest and digest.startswith(dataset)) or url == dataset.rstrip("/")


def _find(client: MlflowClient, name: str, version: str) -> ModelVersion:
    _check_model(client, name)
    try:
        if version.isdecimal():
            return client.get_model_version(name, version)
        return client.get_model_version_by_alias(name, version)
    except MlflowException as error:
        raise TrackingError(f"{name} has no version {version} ({error.message})") from error


def _check_model(client: MlflowClient, name: str) -> None:
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        raise TrackingError(
            f"there is no registered model {name} ({error.message}); check track.model_name and "
            "track.uri"
        ) from error


def _all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return the versions of a model, page by page."""
    versions: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(f"name='{name}'", page_token=token)
        versions += page
        token = page.token
        if not token:
            return versions


def _version_with_weights(client: MlflowClient, name: str, sha256: str) -> str | None:
    if sha256 in (_UNKNOWN, "none"):
        return None
    query = f"name='{name}' and tags.`weights_sha256`='{sha256}'"
    found = [str(version.version) for version in client.search_model_versions(query)]
    return min(found, key=int, default=None)


def _short(data: tuple[str, str]) -> tuple[str, str]:
    digest, url = data
    return digest[:_SHOWN_DIGEST], url


def _in_brackets(aliases: tuple[str, ...]) -> str:
    return f" ({', '.join(aliases)})" if aliases else ""
