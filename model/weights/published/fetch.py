"""Get published weights: from this machine, from a mirror, or from their publisher."""

import logging
import os
from pathlib import Path

from model.config import ModelConfig
from model.weights.published.selection import find_published
from model.weights.published.table import WORDS, PublishedWeights
from model.weights.report import WeightsError
from model.weights.storage.download import cache_folder, download_file, find_cached

_LOG = logging.getLogger(__name__)

MIRRORS_VARIABLE = "MASKRCNN_RAY_MIRRORS"
"""Environment variable with folders and ``https://`` addresses, separated by commas, that have
published weights under their file names; they are tried in this order, before the publisher."""


def fetch_published(source: str | Path, config: ModelConfig) -> str | Path:
    """Return the path of published weights, or any other source unchanged.

    Args:
        source: a word of `WORDS`, or any other source of weights.
        config: the detector that the weights are for.

    Raises:
        WeightsError: no weights are published for this architecture, or nothing has them; the
            message says where they are, under which license, and where to put them.
    """
    if str(source) not in WORDS or isinstance(source, Path):
        return source
    weights = find_published(source, config)
    path = _fetch(weights)
    _LOG.info("%s: %s of %s, %s (%s)", source, weights.model, weights.library, path, weights.terms)
    return path


def _fetch(weights: PublishedWeights) -> Path:
    mirrors = [each.strip() for each in os.environ.get(MIRRORS_VARIABLE, "").split(",")]
    mirrors = [each.rstrip("/") for each in mirrors if each]
    folders = [Path(each).expanduser() for each in mirrors if "://" not in each]
    addresses = [f"{each}/{weights.file_name}" for each in mirrors if "://" in each]
    addresses.append(weights.address)
    problems = []
    for folder in (*folders, cache_folder(), _torch_hub_folder()):
        path = folder / weights.file_name
        if not path.is_file():
            continue
        if weights.digest is None or weights.digest.matches(path):
            return path
        problems.append(f"{path} does not have the {weights.digest}")
    if (cached := _in_hugging_face_cache(weights)) is not None:
        return cached
    for address in addresses:
        if (cached := find_cached(address, weights.digest)) is not None:
            return cached
    for address in addresses:
        try:
            return download_file(address, weights.digest)
        except WeightsError as error:
            problems.append(str(error))
    raise WeightsError(_how_to_get(weights, problems))


def _torch_hub_folder() -> Path:
    """Return the folder in which torch and torchvision keep the files that they download."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TORCH_HOME") or Path(cache) / "torch"
    return Path(home) / "hub" / "checkpoints"


def _in_hugging_face_cache(weights: PublishedWeights) -> Path | None:
    """Return the file if timm or another user of Hugging Face's hub has downloaded it."""
    if not weights.hub_repository:
        return None
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 comes with timm

    file = weights.address.rpartition("/")[2]
    found = try_to_load_from_cache(weights.hub_repository, file)
    return Path(found) if isinstance(found, str) else None


def _how_to_get(weights: PublishedWeights, problems: list[str]) -> str:
    is_same = weights.address.endswith(f"/{weights.file_name}")
    renamed = "" if is_same else f" as {weights.file_name}"
    return (
        f"the {weights.word} weights of {weights.model} ({weights.library}) are not on this "
        f"machine and cannot be downloaded: {'; '.join(problems)}. Download {weights.address} "
        f"elsewhere (license: {weights.terms}) and put it into {cache_folder()}{renamed}, or into "
        f"a folder, or below an https:// address, that {MIRRORS_VARIABLE} names; or give the path "
        f"of the file in place of {weights.word!r}"
    )
