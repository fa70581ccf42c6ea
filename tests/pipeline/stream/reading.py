"""Read streams to what a model sees of them, and damage the shards that they read."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.shards.manifest import read_manifest
from pipeline.shards.shard_file import SCHEMA
from tests.pipeline.stream.objects import objects_of_images


def content(batch):
    """Return everything a model can see of a batch, image by image."""
    pixels, sizes = batch.images.pixels, batch.images.sizes
    return [
        (
            batch.step,
            target.image_id,
            tuple(pixels.shape[2:]),
            sizes[index],
            batch.images.sampling_seeds[index],
            pixels[index].numpy().tobytes(),
            target.boxes.numpy().tobytes(),
            b"" if target.vertices is None else target.vertices.numpy().tobytes(),
            [part.numpy().tobytes() for part in target.runs or ()],
        )
        for index, target in enumerate(objects_of_images(batch))
    ]


def read(open_one, config, shards, rank, world_size, start, stop):
    """Return the content of each batch of a stream."""
    with open_one(config, shards, rank, world_size, start, stop) as stream:
        return [content(batch) for batch in stream]


def copy_with_damage(shards, folder, damage):
    """Copy the shards and ``damage`` the first row of the first one; return that shard's name."""
    storage.upload_folder(Path(shards), str(folder))
    manifest = read_manifest(str(folder))
    path = folder / manifest.files[0].name
    file = pq.ParquetFile(path)
    rows = [file.read_row_group(group).to_pylist() for group in range(file.num_row_groups)]
    damage(rows[0][0])
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for group in rows:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    return manifest.files[0].name
