"""The annotations of a folder of shards as flat arrays, without its images.

Shapes: N images, G objects and crowd regions of all images, K classes.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.shards.manifest import Manifest
from pipeline.shards.shard_file import open_shard

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_READ_THREADS = 16  # they mostly wait for the store
_COLUMNS = ["height", "width", "boxes", "labels", "iscrowd", "area"]


@dataclass(frozen=True)
class Annotations:
    """All annotations of a dataset.

    Args:
        sizes: (N, 2) height and width of the images.
        image: (G,) index of each object's image.
        labels: (G,) 1..K.
        boxes: (G, 4) x1 y1 x2 y2, pixels.
        areas: (G,) square pixels, of the mask or, without one, of the box.
        iscrowd: (G,) bool.
    """

    sizes: Integers
    image: Integers
    labels: Integers
    boxes: Floats
    areas: Floats
    iscrowd: NDArray[np.bool_]

    def objects(self) -> "Annotations":
        """Return the annotations without crowd regions; all images stay."""
        kept = ~self.iscrowd
        return Annotations(
            self.sizes,
            self.image[kept],
            self.labels[kept],
            self.boxes[kept],
            self.areas[kept],
            self.iscrowd[kept],
        )


_NOTHING = Annotations(
    sizes=np.zeros((0, 2), np.int64),
    image=np.zeros(0, np.int64),
    labels=np.zeros(0, np.int64),
    boxes=np.zeros((0, 4)),
    areas=np.zeros(0),
    iscrowd=np.zeros(0, bool),
)


def read_annotations(shards_url: str, manifest: Manifest) -> Annotations:
    """Read the annotations of all shards.

    Args:
        shards_url: folder of the shards.
        manifest: its manifest.

    Raises:
        StorageError: a shard cannot be read.
    """
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        names = [file.name for file in manifest.files]
        parts = [_NOTHING, *pool.map(lambda name: _read_shard(shards_url, name), names)]
    starts = np.cumsum([0, *(len(part.sizes) for part in parts)])
    return Annotations(
        sizes=np.concatenate([part.sizes for part in parts]),
        image=np.concatenate(
            [part.image + start for part, start in zip(parts, starts[:-1], strict=True)]
        ),
        labels=np.concatenate([part.labels for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        areas=np.concatenate([part.areas for part in parts]),
        iscrowd=np.concatenate([part.iscrowd for part in parts]),
    )


def _read_shard(shards_url: str, name: str) -> Annotations:
    try:
        with open_shard(shards_url, name) as shard:
            table = shard.read(columns=_COLUMNS).combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise storage.StorageError(
            f"{storage.join(shards_url, name)}: cannot be read ({error}); "
            "maskrcnn-ray prepare_shards --check lists what is damaged"
        ) from error
    counts = table.column("labels").combine_chunks().value_lengths().to_numpy()
    return Annotations(
        sizes=np.stack([_flat(table, name) for name in ("height", "width")], 1).astype(np.int64),
        image=np.repeat(np.arange(len(counts)), counts),
        labels=_flat(table, "labels"),
        boxes=_flat(table, "boxes").reshape(-1, 4),
        areas=_flat(table, "area"),
        iscrowd=_flat(table, "iscrowd"),
    )


def _flat(table: pa.Table, name: str) -> NDArray[Any]:
    """Return the values of a column without its list structure."""
    array = table.column(name).combine_chunks()
    while pa.types.is_nested(array.type):
        array = array.flatten()
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values
