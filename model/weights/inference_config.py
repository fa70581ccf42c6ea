"""Weights read for inference, and the config of their detector: what each side decides.

`model/weights/setting_origins.py` lists which settings the weights decide, and which a config.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.weights.architecture.anchors import (
    AnchorCountError,
    check_anchor_count,
    take_stated_anchors,
)
from model.weights.conflicts import describe_overruled_config, find_conflicts, value_text
from model.weights.conventions_argument import parse_conventions
from model.weights.conversion import OUR_ECOSYSTEM, ConvertedWeights
from model.weights.read import read_weights
from model.weights.report import WeightsError
from model.weights.stated_settings import (
    EVERY_SECTION,
    free_settings,
    has_section,
    replace_settings,
    setting_of,
    take_free_settings,
)


def read_for_inference(
    source: str | Path,
    config: ModelConfig | None,
    conventions: Mapping[str, Any] | None = None,
) -> tuple[ConvertedWeights, tuple[str, ...]]:
    """Read weights and settle the config of the detector that they fill.

    Args:
        source: as for ``read_weights``.
        config: decides what ``Origin`` leaves to it; everything, if the weights do not reveal
            their architecture.
        conventions: as for ``parse_conventions``; replace those of the weights.

    Returns:
        The weights, whose config is None only if neither they nor the caller know it; and a
        warning if ``config`` states settings that are not used.

    Raises:
        WeightsError: they cannot be read, or contradict ``conventions``.
        ConfigError: ``conventions`` has an unknown name or an invalid value.
    """
    stated = parse_conventions(conventions or {})
    known = replace_settings(free_settings(config) if config else EVERY_SECTION, stated)
    weights = _read_with_anchors(source, known, config)
    settled = weights.config or config
    if settled is None:
        return weights, ()
    if weights.ecosystem == OUR_ECOSYSTEM and weights.config and config:
        settled = take_free_settings(settled, config)
    if weights.ecosystem == OUR_ECOSYSTEM or weights.config is None:
        present = {key: value for key, value in stated.items() if has_section(settled, key)}
        settled = replace_settings(settled, present)
    _check_stated(settled, stated, source)
    warnings: tuple[str, ...] = ()
    if weights.config and config and (conflicts := find_conflicts(config, settled, stated)):
        warnings = (describe_overruled_config(conflicts),)
    return replace(weights, config=settled), warnings


def _read_with_anchors(
    source: str | Path, known: ModelConfig, config: ModelConfig | None
) -> ConvertedWeights:
    """Read weights, with the config's anchors if the library's have another number per cell.

    Models for Pascal VOC, for example, have three anchor sizes instead of five on C4.

    Raises:
        AnchorCountError: the config's have too, or it states none.
    """
    try:
        return _read_checked(source, known)
    except AnchorCountError:
        with_anchors = take_stated_anchors(known, config) if config else known
        if with_anchors == known:
            raise
        return _read_checked(source, with_anchors)


def _read_checked(source: str | Path, known: ModelConfig) -> ConvertedWeights:
    weights = read_weights(source, known)
    if weights.config is not None and weights.config.retinanet is None:
        check_anchor_count(weights.tensors, weights.config)
    return weights


def _check_stated(config: ModelConfig, stated: Mapping[str, Any], source: str | Path) -> None:
    """Raise if the weights do not allow what the caller states.

    Raises:
        WeightsError: the tensors show another value, or the detector lacks the part.
    """
    for key, value in stated.items():
        if not has_section(config, key):
            head = key.partition(".")[0]
            raise WeightsError(f"{source} has no {head} head, but conventions= states {key}")
        if (actual := setting_of(config, key)) != value:
            raise WeightsError(
                f"conventions= states {key} = {value_text(value)}, but the tensors of {source} "
                f"show {value_text(actual)}"
            )
