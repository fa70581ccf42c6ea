"""Write the training and validation splits of a configuration as folders of shards."""

import tempfile
from pathlib import Path

from pipeline import storage
from pipeline.config import DataConfig, RunConfig, SplitConfig
from pipeline.ingest.cityscapes import read_cityscapes
from pipeline.ingest.class_selection import select_classes
from pipeline.ingest.coco import read_coco
from pipeline.ingest.function_source import read_function
from pipeline.ingest.listing import Listing, combine_listings
from pipeline.ingest.merge import merge_shards
from pipeline.ingest.shapes_dataset import (
    ANNOTATIONS_FILE,
    IMAGES_FOLDER,
    draw_shapes_dataset,
    is_drawn,
)
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.voc import read_voc
from pipeline.output_layout import SPLITS, split_shards_url
from pipeline.shards.decoding import Decoding
from pipeline.shards.manifest import Manifest, read_manifest


def prepare_split(config: RunConfig, split: str) -> Manifest:
    """Write the shards of a split and return their manifest.

    Shards that are up to date are kept. If the configuration gives shards but no source, their
    manifest is only read.

    Raises:
        StorageError: the source or the shards cannot be read or written.
    """
    shards_url = split_shards_url(config, split)
    data = config.data
    parts = data.parts(split)
    if data.source == "shards" and parts:
        urls = [part.shards or "" for part in parts]
        layout = (data.rows_per_shard, data.rows_per_group)
        return merge_shards(urls, shards_url, *layout, data.classes)
    if data.source == "shapes" and split in SPLITS:
        listing = select_classes(_list_shapes(config, split), data.classes)
    elif parts:
        listing = combine_listings(
            [select_classes(_list_part(data, part), data.classes) for part in parts]
        )
    else:
        return read_manifest(shards_url)
    return write_shards(
        listing,
        shards_url,
        data.rows_per_shard,
        data.rows_per_group,
        Decoding(data.exif_orientation, data.bit_depth),
        data.max_quarantined,
        data.tiles if split == "train" or (data.tiles and data.tiles.val) else None,
    )


def _list_part(data: DataConfig, part: SplitConfig) -> Listing:
    # The configuration requires the keys of each source; "" and 0 only satisfy the type checker.
    root, image_set = part.root or "", part.set or ""
    match data.source:
        case "coco":
            return read_coco(part.annotations or "", part.images or "", part.image_ids)
        case "voc":
            year = part.challenge_year or 0
            return read_voc(root, image_set, year, part.masks, data.classes)
        case "cityscapes":
            return read_cityscapes(root, image_set)
        case "function":
            return read_function(part.function or "", part.arguments, part.images or "")
        case "shapes" | "shards":
            raise ValueError(f"a part of {data.source} has no annotations to list")


def _list_shapes(config: RunConfig, split: str) -> Listing:
    """Draw the dataset into the run's output folder, unless it exists, and list it."""
    shapes = config.data.shapes
    images, seed = (
        (shapes.images, 2 * config.seed)
        if split == "train"
        else (shapes.val_images, 2 * config.seed + 1)
    )
    recipe = (images, shapes.side, shapes.max_objects, seed, shapes.keypoints)
    folder_url = storage.join(config.output, "shapes", split)
    folder = storage.local_path(folder_url)
    if folder is not None:
        draw_shapes_dataset(folder, *recipe)
    elif not is_drawn(storage.join(folder_url, ANNOTATIONS_FILE), *recipe):
        # Uploaded again, the same images would count as changed.
        with tempfile.TemporaryDirectory(prefix="shapes-") as scratch:
            draw_shapes_dataset(Path(scratch), *recipe)
            storage.upload_folder(Path(scratch), folder_url)
    return read_coco(
        storage.join(folder_url, ANNOTATIONS_FILE), storage.join(folder_url, IMAGES_FOLDER)
    )
