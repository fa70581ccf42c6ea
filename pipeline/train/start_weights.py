"""Adopt the conventions of the detector whose weights a training starts from."""

import logging
from typing import Any

from model.config import Conventions
from model.weights import read_conventions
from pipeline.config import RunConfig
from pipeline.track.weights_source import resolve_weights

logger = logging.getLogger(__name__)


def adopt_conventions(
    config: RunConfig, adopted: dict[str, Any] | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """Return the config with the conventions of the detector whose weights training starts from.

    Conventions that the config states are kept; the worker that loads the weights warns if they
    are not those of the weights. Weights of a ResNet alone have none to adopt: they are converted
    to the config's pixel convention.

    Args:
        config: the job's settings.
        adopted: what an earlier submission of the job adopted; None reads the weights.

    Returns:
        The config, and the adopted values by name; empty if there are none.

    Raises:
        WeightsError: the weights cannot be read.
    """
    if config.train.weights is None:
        return config, {}
    if adopted is None:
        with resolve_weights(config.train.weights, config) as path:
            theirs = read_conventions(path, config.model)
        adopted = {} if theirs is None else _differences(config.model.conventions, theirs)
    stated = config.model.conventions.model_fields_set
    parsed = Conventions.model_validate(adopted)  # turns the lists of run.json into tuples
    values = {name: getattr(parsed, name) for name in adopted if name not in stated}
    if values:
        listed = ", ".join(f"{name} = {value}" for name, value in values.items())
        logger.info("conventions adopted from %s: %s", config.train.weights, listed)
    conventions = config.model.conventions.model_copy(update=values)
    model = config.model.model_copy(update={"conventions": conventions})
    return config.model_copy(update={"model": model}), adopted


def _differences(ours: Conventions, theirs: Conventions) -> dict[str, Any]:
    """Return, by name, the values of theirs that differ from ours and that ours does not state."""
    return {
        name: value
        for name, value in theirs.model_dump(mode="json").items()
        if name not in ours.model_fields_set and getattr(theirs, name) != getattr(ours, name)
    }
