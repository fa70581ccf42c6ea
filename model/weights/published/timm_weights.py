"""The ImageNet weights that timm publishes, on Hugging Face, for its models."""

import os
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.optional_packages import require_packages
from model.weights.published.table import PublishedWeights
from model.weights.report import WeightsError

_FILE = "model.safetensors"


def timm_weights(config: ModelConfig) -> PublishedWeights:
    """Return where timm's weights of a backbone are.

    Args:
        config: of a detector with ``backbone.timm``.

    Raises:
        WeightsError: timm has no such model, or publishes no weights of it.
        MissingPackagesError: timm is not installed.
    """
    require_packages("weights of timm", "timm", ["timm"])
    # An extra, and slow to import: this module is part of reading the settings.
    import timm  # noqa: PLC0415

    name = config.backbone.timm
    assert name is not None
    if not timm.is_model(name):
        raise WeightsError(f"timm has no model {name}")
    found = pretrained_settings(name)
    if found is None or not found.hf_hub_id:
        variants = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        known = f"; it has some of {', '.join(variants)}" if variants else ""
        raise WeightsError(f"timm publishes no weights of {name}{known}. Name a file instead")
    file = found.hf_hub_filename or _FILE
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    return PublishedWeights(
        word="imagenet",
        model=f"{found.architecture}.{found.tag}" if found.tag else found.architecture,
        library="timm",
        address=f"{hub}/{found.hf_hub_id}/resolve/main/{file}",
        config=config,
        digest=None,
        terms=f"{found.license or 'see its page'}, https://huggingface.co/{found.hf_hub_id}",
        file_name=f"{found.hf_hub_id.rpartition('/')[2]}{Path(file).suffix}",
        hub_repository=found.hf_hub_id,
    )


def pretrained_settings(name: str) -> Any:
    """Return what timm says of its weights of a model (``PretrainedCfg``); None if it has none."""
    import timm  # noqa: PLC0415

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        return None  # no such model, or no such variant of its weights
