"""Checks before a chain starts anything: what would fail hours later for a known reason."""

import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from model.config.settings import ConfigError
from model.weights.published.table import WORDS
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.registration import check_champion_metric
from pipeline.sweep.sweep_check import check_sweep
from pipeline.track.mlflow_store import TrackingError, hide_password, tracking_uri
from pipeline.train.validation_history import best_metric

_CONNECT_S = 10.0


def check_start(config: RunConfig, selected: Collection[str]) -> None:
    """Check what is known before the first stage.

    Args:
        config: settings of the chain.
        selected: names of the stages that take part.

    Raises:
        ConfigError: a setting of a late stage is wrong, or a file that it names does not exist.
        TrackingError: nothing answers at the address of the MLflow server.
    """
    if "register" in selected:
        check_champion_metric(config)
    if "sweep" in selected:
        check_sweep(config)
    if "train" in selected:
        best_metric(config)
        _check_weights(config)
    if set(selected) - {"train_shards", "val_shards"}:
        _check_tracker(tracking_uri(config))


def _check_weights(config: RunConfig) -> None:
    weights = config.train.weights
    is_stored = (
        weights is not None
        and weights not in WORDS
        and not weights.startswith(("models:/", "runs:/", "http://", "https://"))
    )
    if weights is not None and is_stored and not storage.exists(weights):
        raise ConfigError([f"train.weights: {weights} does not exist"])


def _check_tracker(uri: str) -> None:
    """Raise at once if nothing listens; MLflow's client would try again for minutes."""
    address = urlsplit(uri)
    if address.scheme not in ("http", "https") or address.hostname is None:
        return
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), _CONNECT_S).close()
    except OSError as error:
        raise TrackingError(
            f"no MLflow server answers at {hide_password(uri)} ({error}). Start the server, or "
            "set track.uri."
        ) from error
