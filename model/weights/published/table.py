"""The weights of ``weights.yaml``: which exist, for which architectures, and where."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from model.config import ModelConfig
from model.config.settings import check_settings
from model.config.yaml_files import merge_settings
from model.weights.storage.digest import Digest

Word = Literal["imagenet", "coco"]
WORDS: tuple[str, ...] = get_args(Word)
"""What can stand in place of a file: weights trained on these data, for a configuration."""

DetectorWord = Literal["coco"]
"""Likewise, where only the weights of a whole detector can be used."""

TABLE = Path(__file__).with_name("weights.yaml")


@dataclass(frozen=True)
class PublishedWeights:
    """A file of weights that can be downloaded.

    Args:
        word: the data that it was trained on, of `WORDS`.
        model: its architecture, for messages.
        library: the project that published it.
        address: of the file.
        config: its architecture and, of its conventions, ``stride_in_1x1`` and ``pixel_order``.
        digest: the part that its publisher states; None if it states none.
        terms: the license, and where the terms of the data are.
        file_name: under which mirrors have the file; no other file here has the same.
        hub_repository: of Hugging Face, whose own cache may have the file; empty if none has it.
    """

    word: str
    model: str
    library: str
    address: str
    config: ModelConfig
    digest: Digest | None
    terms: str
    file_name: str
    hub_repository: str = ""


@functools.cache
def published_weights(word: str) -> tuple[PublishedWeights, ...]:
    """Return all weights of a word, in the order in which they are preferred."""
    table = yaml.safe_load(TABLE.read_text())
    return tuple(
        _parse(table, word, library, model, row)
        for library, models in table[word].items()
        for model, row in models.items()
    )


def _parse(
    table: Mapping[str, Any], word: str, library: str, model: str, row: Mapping[str, Any]
) -> PublishedWeights:
    publisher = table["libraries"][library]
    settings: dict[str, Any] = {"conventions": {"pixel_order": publisher["pixel_order"]}}
    for part in row["parts"]:
        settings = merge_settings(settings, table["parts"][part])
    algorithm, stem = publisher["digest"], Path(row["file"]).stem
    digits = stem.replace("_", "-").rpartition("-")[2]
    return PublishedWeights(
        word,
        model,
        library,
        f"{publisher['address']}/{row['file']}",
        check_settings(ModelConfig, settings),
        None if algorithm is None else Digest(algorithm, digits),
        f"{publisher['license']}; trained on {table['datasets'][word]}",
        row["file"].rpartition("/")[2],
    )
