"""The training and validation splits of a configuration, as folders of shards."""

import tempfile
from pathlib import Path
from typing import Literal

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.listing import Listing
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.sources import list_split
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.storage import local_path

Split = Literal["train", "val"]

SPLITS: tuple[Split, ...] = ("train", "val")


def split_shards_url(config: RunConfig, split: Split) -> str:
    """Where the shards of a split are, or will be."""
    given = config.data.train_shards if split == "train" else config.data.val_shards
    return given or storage.join(config.output, "shards", split)


def prepare_split(config: RunConfig, split: Split) -> Manifest:
    """Write the shards of a split unless they stand; shards given without a source are read.

    Raises:
        StorageError: the source or the shards cannot be read or written.
    """
    shards_url = split_shards_url(config, split)
    if config.data.source == "shapes":
        return _prepare_shapes(config, split, shards_url)
    parts = config.data.parts(split)
    if not parts:
        return read_manifest(shards_url)
    return _write(config, list_split(config.data.source, parts), shards_url)


def _prepare_shapes(config: RunConfig, split: Split, shards_url: str) -> Manifest:
    """Draw the data set beside the shards' run folder, once, and write its shards."""
    shapes = config.data.shapes
    images, seed = (
        (shapes.images, 2 * config.seed)
        if split == "train"
        else (shapes.val_images, 2 * config.seed + 1)
    )
    recipe = (images, shapes.side, shapes.max_objects, seed, shapes.keypoints)
    drawn_url = storage.join(config.output, "shapes", split)
    local = local_path(drawn_url)
    if local is not None:
        draw_shapes_dataset(local, *recipe)
    else:
        with tempfile.TemporaryDirectory(prefix="shapes-") as scratch:
            draw_shapes_dataset(Path(scratch), *recipe)
            storage.upload_folder(Path(scratch), drawn_url)
    listing = read_coco(
        storage.join(drawn_url, "annotations.json"), storage.join(drawn_url, "images")
    )
    return _write(config, listing, shards_url)


def _write(config: RunConfig, listing: Listing, shards_url: str) -> Manifest:
    return write_shards(
        listing, shards_url, config.data.rows_per_shard, config.data.rows_per_group
    )
