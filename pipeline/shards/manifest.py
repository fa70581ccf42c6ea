"""The manifest of a folder of shards: its content, its source, and what was left out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.shards.decoding import DEFAULT_DECODING, Decoding
from pipeline.shards.keypoints import KeypointSet

SCHEMA_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)  # 1 has no keypoints; 1 and 2 have no orientation and source ids
_FIRST_DECODING_VERSION = 3
_FORMER_DECODING = Decoding("ignore", 16)
MANIFEST_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"

EvaluationProtocol = Literal["coco", "voc_11_points", "voc_area"]
"""Which metrics the dataset is evaluated with: COCO's alone, or also VOC's AP at 11 recall points
(challenges before 2010) or area under the curve (since 2010)."""


@dataclass(frozen=True)
class ShardFile:
    """One Parquet file.

    Args:
        name: relative to the manifest.
        rows: number of images.
        sha256: of the file, hex.
        row_groups: number of rows in each row group.
        sizes: original size of each image, in row order.
        labelled_points: number of labeled keypoints in each image, in row order; empty if the
            dataset has no keypoints. Spelled as the key in manifest.json.
        objects: number of objects in each image, without crowd regions, in row order; empty, like
            the next two, in manifests of earlier versions (`image_contents.complete_manifest`).
        class_counts: number of distinct classes of these objects, in row order.
        classes: the labels of these classes, ascending in each image, one image after another.
    """

    name: str
    rows: int
    sha256: str
    row_groups: tuple[int, ...]
    sizes: tuple[ImageSize, ...]
    labelled_points: tuple[int, ...] = ()
    objects: tuple[int, ...] = ()
    class_counts: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()

    @property
    def has_contents(self) -> bool:
        """Whether the objects and classes of its images are known."""
        return len(self.objects) == self.rows


@dataclass(frozen=True)
class Manifest:
    """A dataset, or one split of it.

    Args:
        version: of the row schema.
        categories: label i is ``categories[i - 1]``.
        files: the shards, in order.
        source_digest: SHA-256 of the source; if it has not changed, the shards are kept.
        counts: ``images_listed = images + images_quarantined`` and ``annotations_listed = objects
            + crowd + annotations_quarantined + other_classes`` (those of classes that are not
            selected); also ``images_without_objects``, ``clipped``
            (boxes clipped to the image), ``without_mask``, ``with_keypoints`` (objects with a
            labeled keypoint), ``points_outside`` (keypoints labeled outside their image, stored
            as unlabeled) and ``keypoints_unnamed`` (annotations whose keypoints are left out
            because the categories do not share one list of names), ``images_turned`` (by their
            EXIF orientation), ``orientation_unclear`` (images with an EXIF orientation whose
            annotations fit both ways, used as stored) and ``renumbered`` (annotations whose own id
            is missing, repeated or no integer). If images are cut into tiles, all of these count
            whole images, and ``tiles``, ``images_not_cut``, ``tiles_dropped`` (empty ones),
            ``tile_objects``, ``tile_parts_ignored`` and ``tile_parts_dropped`` (of objects of which
            a tile shows too little) are there too.
        reasons: number of quarantined records for each reason.
        protocol: which metrics the dataset is evaluated with.
        keypoints: the keypoints of the objects; None if the categories define none.
        corrected: number of corrected records for each reason.
        decoding: settings of the images.
    """

    version: int
    categories: tuple[Category, ...]
    files: tuple[ShardFile, ...]
    source_digest: str
    counts: dict[str, int]
    reasons: dict[str, int]
    protocol: EvaluationProtocol = "coco"
    keypoints: KeypointSet | None = None
    # Manifests written before the rename say "mended".
    corrected: Annotated[
        dict[str, int], Field(validation_alias=AliasChoices("corrected", "mended"))
    ] = field(default_factory=dict)
    decoding: Decoding = DEFAULT_DECODING

    @property
    def rows(self) -> int:
        """Number of images in all shards."""
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
        """Summarize the content of the shards, and what was left out, in one line."""
        count = self.counts
        line = (
            f"{count['images']} images with {count['objects']} objects and {count['crowd']} crowd "
            f"regions of {len(self.categories)} categories in {len(self.files)} shards"
        )
        if count.get("tiles"):
            line += (
                f"; cut into {count['tiles']} tiles with {count.get('tile_objects', 0)} objects, "
                f"{count.get('tile_parts_ignored', 0)} small parts ignored, "
                f"{count.get('tile_parts_dropped', 0)} left out; "
                f"{count.get('images_not_cut', 0)} images not cut"
            )
        if self.reasons:
            line += f"; left out: {_counted(self.reasons)}"
        if count.get("other_classes"):
            line += f"; {count['other_classes']} annotations of other classes left out"
        if count["clipped"]:
            line += f"; {count['clipped']} boxes clipped to their image"
        if self.keypoints is not None:
            line += (
                f"; {count['with_keypoints']} objects with any of the "
                f"{len(self.keypoints.names)} keypoints"
            )
        if count.get("points_outside"):
            line += f"; {count['points_outside']} keypoints outside their image left out"
        if count.get("keypoints_unnamed"):
            line += (
                f"; keypoints of {count['keypoints_unnamed']} annotations left out: the categories "
                "do not share one list of keypoint names"
            )
        if other := {name: n for name, n in self.corrected.items() if name not in _COUNTED_ABOVE}:
            line += f"; corrected: {_counted(other)}"
        if count.get("without_mask"):
            line += f"; {count['without_mask']} objects without a mask"
        if count.get("renumbered"):
            line += f"; {count['renumbered']} annotations renumbered"
        if count.get("images_turned"):
            line += f"; {count['images_turned']} images turned as their EXIF data says"
        if count.get("orientation_unclear"):
            line += (
                f"; {count['orientation_unclear']} images have an EXIF orientation, but their "
                "annotations fit both ways: used as stored (data.exif_orientation=apply turns them)"
            )
        return line


_COUNTED_ABOVE = ("box clipped", "keypoints outside the image", "keypoints left out")


def _counted(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({number})" for reason, number in sorted(reasons.items()))


_JSON: TypeAdapter[Manifest] = TypeAdapter(Manifest)


def read_manifest(shards_url: str) -> Manifest:
    """Read the manifest of a folder of shards.

    Raises:
        MissingFileError: there is no manifest: the shards were never written, or not completely.
        StorageError: the manifest is damaged or has an unsupported schema version.
    """
    url = storage.join(shards_url, MANIFEST_NAME)
    try:
        manifest = _JSON.validate_json(storage.read_bytes(url))
    except storage.MissingFileError as error:
        raise storage.MissingFileError(
            f"{url}: no manifest; run maskrcnn-ray prepare_shards to write the shards"
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise storage.StorageError(
            f"{url}: not a valid manifest ({problem['loc']}: {problem['msg']}); run "
            "maskrcnn-ray prepare_shards to write the shards again"
        ) from None
    if manifest.version < _FIRST_DECODING_VERSION:
        manifest = replace(manifest, decoding=_FORMER_DECODING)
    if manifest.version not in READABLE_VERSIONS:
        raise storage.StorageError(
            f"{url}: unsupported schema version {manifest.version}; this program reads versions "
            f"{', '.join(map(str, READABLE_VERSIONS))}; run "
            "maskrcnn-ray prepare_shards to write the shards again"
        )
    for file in manifest.files:
        try:
            storage.check_name(file.name)
        except storage.UnsafeNameError as error:
            raise storage.StorageError(f"{url}: {error}") from None
    return manifest


def write_manifest(shards_url: str, manifest: Manifest) -> None:
    """Write the manifest. Write it last: a folder with a manifest is complete."""
    storage.write_bytes(storage.join(shards_url, MANIFEST_NAME), _JSON.dump_json(manifest))
