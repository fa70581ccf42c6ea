"""Checks before a chain starts anything: what would fail hours later for a known reason."""

import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from model.config.settings import ConfigError
from model.weights.published.table import WORDS
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.registration import check_champion_metric
from pipeline.ingest.source_check import check_sources
from pipeline.output_layout import SPLITS, split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.storage.urls import MODEL_SCHEMES, scheme_of
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
        StorageError: annotations or shards do not exist, or a store refuses.
        TrackingError: nothing answers at the address of the MLflow server.
    """
    if "register" in selected:
        check_champion_metric(config)
    if "sweep" in selected:
        check_sweep(config)
    if "train" in selected:
        best_metric(config)
    _check_locations(config, selected)
    _check_sources(config, selected)
    if set(selected) - {"train_shards", "val_shards"}:
        _check_tracker(tracking_uri(config))


def _check_sources(config: RunConfig, selected: Collection[str]) -> None:
    """Raise if annotations, or shards that no stage writes, do not exist."""
    splits = [split for split in SPLITS if f"{split}_shards" in selected]
    check_sources(config, splits)
    evaluated = config.evaluate.split
    if "evaluate" in selected and evaluated not in SPLITS:
        read_manifest(split_shards_url(config, evaluated))


def _check_locations(config: RunConfig, selected: Collection[str]) -> None:
    """Raise if a location does not exist that a stage reads and none of the chain writes."""
    train, evaluate, infer = config.train, config.evaluate, config.infer
    read = {
        "train": {"train.weights": train.weights},
        "evaluate": {
            "evaluate.weights": evaluate.weights,
            "evaluate.predictions": evaluate.predictions,
        },
        "infer": {
            "infer.model": infer.model,
            "infer.inputs": infer.inputs,
            "infer.images": infer.images,
        },
    }
    problems = [
        f"{key}: {location} does not exist"
        for stage, settings in read.items()
        if stage in selected
        for key, location in settings.items()
        if location is not None
        and not _is_elsewhere(location)
        and not _is_written(config, location)
        and not storage.exists(location)
    ]
    if problems:
        raise ConfigError(problems)


def _is_elsewhere(location: str) -> bool:
    """Whether weights are published, in MLflow or on the web."""
    return location in WORDS or scheme_of(location) in MODEL_SCHEMES


def _is_written(config: RunConfig, location: str) -> bool:
    """Whether a location is in a folder that the chain writes."""
    folders = (config.output, *(split_shards_url(config, split) for split in SPLITS))
    return storage.join(location, "").startswith(tuple(storage.join(each, "") for each in folders))


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
