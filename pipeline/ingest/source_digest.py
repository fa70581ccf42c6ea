"""The identity of a dataset's source, by which shards are kept or written again."""

import hashlib
import json
from dataclasses import astuple

from pipeline.config.data_tiles import DataTilesConfig
from pipeline.ingest.listing import Listing
from pipeline.shards.decoding import Decoding
from pipeline.shards.manifest import SCHEMA_VERSION
from pipeline.storage.versions import file_versions


def source_digest(
    listing: Listing,
    layout: tuple[int, ...],
    decoding: Decoding,
    tiles: DataTilesConfig | None = None,
) -> str:
    """Return the SHA-256 (hex) of all that the shards depend on.

    These are the annotations, the images' names and versions, the layout of the shards and the
    settings of decoding.

    Args:
        listing: images and annotations.
        layout: numbers that decide which rows each shard has.
        decoding: settings of the dataset's images.
        tiles: how images are cut into tiles; None keeps them whole.
    """
    versions = {
        (folder, url[len(folder) :].strip("/")): version
        for folder in image_folders(listing)
        for url, version in file_versions(folder).items()
    }
    images = sorted(
        (image.file_name, versions.get((image.images_url, image.file_name), ""))
        for image in listing.images
    )
    categories = [tuple(category) for category in listing.categories]
    digest = hashlib.sha256(listing.fingerprint)
    settings = [SCHEMA_VERSION, *layout, *astuple(decoding), listing.protocol, categories]
    if tiles is not None:
        settings.append(tiles.model_dump(mode="json"))
    digest.update(json.dumps([settings, images]).encode())
    return digest.hexdigest()


def image_folders(listing: Listing) -> list[str]:
    """Return the folders that the images of a listing are in."""
    return list(dict.fromkeys(image.images_url for image in listing.images))
