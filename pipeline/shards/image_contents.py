"""The number of objects of each image and their classes, as the manifest lists them.

Sampling needs them before any row is read. Manifests written by earlier versions lack them; then
they are read from the label columns of the shards.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline import storage
from pipeline.shards.manifest import Manifest, ShardFile
from pipeline.shards.shard_file import open_shard

logger = logging.getLogger(__name__)

_READ_THREADS = 16  # they mostly wait for the store


@dataclass
class ContentsBuilder:
    """Collects the fields ``objects``, ``class_counts`` and ``classes`` of a `ShardFile`."""

    objects: list[int] = field(default_factory=list)
    class_counts: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)

    def add(self, labels: Sequence[int], iscrowd: Sequence[bool]) -> None:
        """Add the next image by the labels and crowd flags of its annotations."""
        kept = [label for label, crowd in zip(labels, iscrowd, strict=True) if not crowd]
        distinct = sorted(set(kept))
        self.objects.append(len(kept))
        self.class_counts.append(len(distinct))
        self.classes += distinct

    def add_to(self, file: ShardFile) -> ShardFile:
        """Return the description of the shard with these fields."""
        return replace(
            file,
            objects=tuple(self.objects),
            class_counts=tuple(self.class_counts),
            classes=tuple(self.classes),
        )


def complete_manifest(manifest: Manifest, shards_url: str) -> Manifest:
    """Return the manifest with the contents of all images; itself if it has them.

    Args:
        manifest: manifest of the shards.
        shards_url: folder of the shards.

    Raises:
        StorageError: a shard cannot be read.
    """
    missing = [file for file in manifest.files if not file.has_contents]
    if not missing:
        return manifest
    logger.info(
        "%s: reading the labels of %d shards, which were written before manifests listed them",
        shards_url,
        len(missing),
    )
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        completed = pool.map(lambda file: _read_contents(shards_url, file), missing)
        by_name = {file.name: file for file in completed}
    files = tuple(by_name.get(file.name, file) for file in manifest.files)
    return replace(manifest, files=files)


def _read_contents(shards_url: str, file: ShardFile) -> ShardFile:
    builder = ContentsBuilder()
    try:
        with open_shard(shards_url, file.name) as shard:
            table = shard.read(columns=["labels", "iscrowd"])
    except (OSError, pa.ArrowException) as error:
        url = storage.join(shards_url, file.name)
        raise storage.StorageError(
            f"{url}: cannot be read ({error}); run maskrcnn-ray prepare_shards to write the shards "
            "again"
        ) from error
    for labels, iscrowd in _pairs(table):
        builder.add(labels, iscrowd)
    return builder.add_to(file)


def _pairs(table: pa.Table) -> Iterable[tuple[list[int], list[bool]]]:
    columns = (table.column(name).to_pylist() for name in ("labels", "iscrowd"))
    return zip(*columns, strict=True)
