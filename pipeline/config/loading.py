"""Load a RunConfig from a file and overrides; write it as YAML; compute its digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import ConfigError, Settings, check_settings
from model.config.yaml_files import apply_overrides, compose_yaml
from model.weights.published.table import WORDS
from pipeline.config.run import RunConfig
from pipeline.storage.urls import is_relative

_INSTALLED = Path(__file__).resolve().parents[2]
"""The folder with ``configs/``: of a clone, or where packages are installed."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, apply ``key=value`` overrides and validate the result.

    Relative locations, in the file and in overrides, are relative to the current folder. The
    recipes of this package are found as ``configs/...`` from every folder, also as a ``base``.

    Raises:
        ConfigError: lists every bad key; or ``output`` or ``train.weights`` is relative inside a
            Ray job.
    """
    tree = apply_overrides(compose_yaml(path, _INSTALLED), overrides)
    here = Path.cwd()
    # Ray runs a job in a temporary copy of the working directory, named after its package.
    if any(part.startswith("_ray_pkg_") for part in here.parts):
        _check_locations_of_job(tree)
    return check_settings(RunConfig, tree, context={"folder": here})


def _check_locations_of_job(tree: Mapping[str, Any]) -> None:
    """Check that a Ray job does not depend on its temporary folder, which other machines lack."""
    problems = []
    output = tree.get("output", RunConfig.model_fields["output"].default)
    if isinstance(output, str) and is_relative(output):
        problems.append(
            f"output: {output!r} is relative, but this Ray job runs in a temporary folder, so "
            "the results would be lost; give an absolute path or a URL (output=s3://...)"
        )
    train = tree.get("train")
    weights = train.get("weights") if isinstance(train, Mapping) else None
    if isinstance(weights, str) and weights not in WORDS and is_relative(weights):
        problems.append(
            f"train.weights: {weights!r} is relative, but this Ray job runs in a temporary folder, "
            "and its workers in others; give an absolute path that every machine has, a URL "
            "(train.weights=s3://...), or one of the words imagenet and coco"
        )
    if problems:
        raise ConfigError(problems)


def stated_tree(config: RunConfig) -> dict[str, Any]:
    """Return the settings that the config states, as plain values, without the defaults.

    Conventions that a config does not state are adopted from the initial weights, so a copy of the
    config must not state them either.
    """
    # The default output is relative to the folder that the config was loaded in.
    return {"output": config.output, **config.model_dump(mode="json", exclude_unset=True)}


def to_yaml(config: RunConfig) -> str:
    """Return what the config states as YAML, from which `load_config` restores an equal one."""
    return yaml.safe_dump(stated_tree(config), sort_keys=False)


def config_digest(settings: Settings) -> str:
    """Return the SHA-256 (hex) of the settings' values; their spelling and order do not matter."""
    return digest_of(settings.model_dump(mode="json"))


def digest_of(document: Any) -> str:
    """Return the SHA-256 (hex) of a document's canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
