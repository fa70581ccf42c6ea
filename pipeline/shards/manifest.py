"""The manifest of a folder of shards: what is in it, where it came from, what was left out."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from model.structures import Category, ImageSize
from pipeline.shards.keypoints import KeypointSet
from pipeline.storage import MissingFileError, StorageError, join, read_bytes, write_bytes

SCHEMA_VERSION = 2
READABLE_VERSIONS = (1, 2)  # those of 1 have no keypoints
MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"

Protocol = Literal["coco", "voc_11_points", "voc_area"]
"""How a data set is measured: by COCO's numbers alone, or also by VOC's, before 2010 or since."""


@dataclass(frozen=True)
class ShardFile:
    """One Parquet file.

    Args:
        name: relative to the manifest.
        rows: images in it.
        sha256: of the file, hex.
        row_groups: rows of each row group.
        sizes: original size of each image, in row order.
        labelled_points: labelled keypoints of each image, in row order; empty where the data set
            names none.
    """

    name: str
    rows: int
    sha256: str
    row_groups: tuple[int, ...]
    sizes: tuple[ImageSize, ...]
    labelled_points: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """A whole data set.

    Args:
        version: of the row schema.
        categories: label i is ``categories[i - 1]``.
        files: the shards, in order.
        source_digest: SHA-256 of what they were made from; equal sources are not read again.
        counts: ``images_listed = images + images_quarantined`` and ``annotations_listed = objects
            + crowd + annotations_quarantined``; also ``images_without_objects``, ``clipped``
            (boxes cut at the image's border), ``without_mask``, ``with_keypoints`` (objects with
            a labelled one), ``points_outside`` (keypoints labelled outside their image, which
            count as not labelled) and ``keypoints_unnamed`` (annotations whose keypoints are left
            out, for want of one list of names).
        reasons: why records were quarantined, with how many of each.
        protocol: how the data set is measured beside COCO's numbers.
        keypoints: the points that the objects have; None where the categories name none.
    """

    version: int
    categories: tuple[Category, ...]
    files: tuple[ShardFile, ...]
    source_digest: str
    counts: dict[str, int]
    reasons: dict[str, int]
    protocol: Protocol = "coco"
    keypoints: KeypointSet | None = None

    @property
    def rows(self) -> int:
        """Images in all shards."""
        return sum(file.rows for file in self.files)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the content: categories, keypoint names and shards."""
        digest = hashlib.sha256(f"{self.version} {list(self.categories)}".encode())
        if self.keypoints is not None:
            digest.update(repr(self.keypoints).encode())
        if self.protocol != "coco":
            digest.update(self.protocol.encode())
        for file in self.files:
            digest.update(f"{file.name} {file.sha256}".encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for people: what is in the shards and what was left out."""
        count = self.counts
        line = (
            f"{count['images']} images with {count['objects']} objects and {count['crowd']} crowd "
            f"regions of {len(self.categories)} categories in {len(self.files)} shards"
        )
        if self.reasons:
            reasons = (f"{number} {reason}" for reason, number in sorted(self.reasons.items()))
            line += f"; left out: {', '.join(reasons)}"
        if count["clipped"]:
            line += f"; {count['clipped']} boxes clipped at the image's border"
        if self.keypoints is not None:
            line += (
                f"; {count['with_keypoints']} objects with some of "
                f"{len(self.keypoints.names)} keypoints"
            )
        if count.get("points_outside"):
            line += f"; {count['points_outside']} keypoints outside their image left out"
        if count.get("keypoints_unnamed"):
            line += f"; keypoints of {count['keypoints_unnamed']} annotations left out, unnamed"
        return line


_JSON: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def read_manifest(shards_url: str) -> Manifest:
    """The manifest below ``shards_url``.

    Raises:
        MissingFileError: no manifest: the shards were not (completely) written.
        StorageError: it is damaged or of another schema version.
    """
    url = join(shards_url, MANIFEST_NAME)
    try:
        manifest = _JSON.validate_json(read_bytes(url))
    except MissingFileError as error:
        raise MissingFileError(f"{url}: no manifest; run workflows/prepare_shards.py") from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise StorageError(
            f"{url}: not a manifest ({problem['loc']}: {problem['msg']}); delete it and run "
            "workflows/prepare_shards.py"
        ) from None
    if manifest.version not in READABLE_VERSIONS:
        raise StorageError(
            f"{url}: schema version {manifest.version}, this program reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; write the shards again"
        )
    return manifest


def write_manifest(shards_url: str, manifest: Manifest) -> None:
    """Write the manifest; it comes last, so that shards with one are complete."""
    write_bytes(join(shards_url, MANIFEST_NAME), _JSON.dump_json(manifest))
