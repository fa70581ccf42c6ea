"""What a training that starts from a detector's weights takes over from them."""

import logging
from typing import Any

from model.config import Conventions
from model.weights import conventions_of
from pipeline.config import RunConfig
from pipeline.track.weights_source import resolve_weights

logger = logging.getLogger(__name__)


def adopt_conventions(
    config: RunConfig, known: dict[str, Any] | None = None
) -> tuple[RunConfig, dict[str, Any]]:
    """The config with the conventions of the detector whose weights training starts from.

    Conventions that the config states stay as stated. Weights of a backbone alone have none to
    take over: they are converted to the config's pixels.

    Args:
        config: the job's settings.
        known: what an earlier submission of the job took over; None reads the weights.

    Returns:
        The config, and what was taken over, by name; empty where nothing was.

    Raises:
        WeightsError: the weights cannot be read.
    """
    if config.train.weights is None:
        return config, {}
    if known is None:
        with resolve_weights(config.train.weights, config) as path:
            theirs = conventions_of(path)
        known = {} if theirs is None else _unlike(config.model.conventions, theirs)
    adopted = Conventions.model_validate(known)  # lists of run.json become tuples
    values = {name: getattr(adopted, name) for name in known}
    if values:
        said = ", ".join(f"{name} = {value}" for name, value in values.items())
        logger.info("conventions of %s: %s", config.train.weights, said)
    conventions = config.model.conventions.model_copy(update=values)
    model = config.model.model_copy(update={"conventions": conventions})
    return config.model_copy(update={"model": model}), known


def _unlike(ours: Conventions, theirs: Conventions) -> dict[str, Any]:
    """Theirs by name, where they differ from ours and ours are not stated."""
    return {
        name: value
        for name, value in theirs.model_dump(mode="json").items()
        if name not in ours.model_fields_set and getattr(theirs, name) != getattr(ours, name)
    }
