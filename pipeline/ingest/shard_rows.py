"""Build the rows of a shard from loaded images, and count what is kept, corrected and left out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model.images.decode import STORED
from pipeline.ingest.listing import Annotation, ImageRecord
from pipeline.ingest.load_image import LoadedImage
from pipeline.ingest.rejects import IMAGE_QUARANTINED, InvalidRecordError, Reject
from pipeline.ingest.validate import ValidatedObject, validate_annotation
from pipeline.shards.decoding import Decoding


class RowBuilder:
    """Rows of one shard.

    Args:
        labels: category id -> label 1..K.
        keypoint_count: number of keypoints the dataset defines.
        decoding: settings of the dataset's images.

    Attributes:
        counts: counts for the manifest.
        rejects: what was left out or corrected.
    """

    def __init__(self, labels: Mapping[int, int], keypoint_count: int, decoding: Decoding) -> None:
        self.labels = labels
        self.keypoint_count = keypoint_count
        self.decoding = decoding
        self.counts: Counter[str] = Counter()
        self.rejects: list[Reject] = []

    def quarantine_image(self, image: ImageRecord, reject: Reject) -> None:
        """Count and list an unusable image and its annotations."""
        self.counts["images_quarantined"] += 1
        self.counts["annotations_quarantined"] += len(image.annotations)
        self.rejects.append(reject)
        self.rejects += [_reject(image, a, IMAGE_QUARANTINED, "") for a in image.annotations]

    def build(self, loaded: LoadedImage) -> dict[str, Any]:
        """Return the row of a valid image with its valid annotations."""
        counts, image = self.counts, loaded.record
        counts["annotations_quarantined"] += len(loaded.mask_rejects)
        # A mask file may hold masks of objects that the annotations do not list.
        counts["annotations_listed"] += len(loaded.annotations) + len(loaded.mask_rejects)
        counts["annotations_listed"] -= len(image.annotations)
        self.rejects += loaded.mask_rejects
        objects = [
            valid
            for annotation in loaded.annotations
            if (valid := self._validate(annotation, image)) is not None
        ]
        counts["images"] += 1
        counts["images_without_objects"] += all(item.iscrowd for item in objects)
        counts["images_turned"] += loaded.geometry.orientation != STORED
        counts["orientation_unclear"] += loaded.geometry.unclear
        return self._row(loaded, objects)

    def _validate(self, annotation: Annotation, image: ImageRecord) -> ValidatedObject | None:
        if image.size is None:
            raise ValueError(f"{image.file_name} is not loaded: it has no size")
        counts = self.counts
        try:
            valid = validate_annotation(annotation, image.size, self.labels, self.keypoint_count)
        except InvalidRecordError as error:
            counts["annotations_quarantined"] += 1
            self.rejects.append(_reject(image, annotation, error.reason, error.detail))
            return None
        counts["crowd" if valid.iscrowd else "objects"] += 1
        counts["without_mask"] += not (valid.has_mask or valid.iscrowd)
        counts["with_keypoints"] += valid.num_keypoints > 0 and not valid.iscrowd
        for reason, detail in self._corrections(valid, annotation):
            self.rejects.append(_reject(image, annotation, reason, detail, corrected=True))
        return valid

    def _corrections(
        self, valid: ValidatedObject, annotation: Annotation
    ) -> Iterator[tuple[str, str]]:
        """Count the corrections of a valid annotation; yield the reason and detail of each."""
        yield from valid.corrections
        if valid.overshoot:
            self.counts["clipped"] += 1
            yield "box clipped", f"it extended {valid.overshoot:.2f} px beyond the image"
        if valid.points_outside:
            self.counts["points_outside"] += valid.points_outside
            yield "keypoints outside the image", f"{valid.points_outside} stored as unlabeled"
        if annotation.get("keypoints") and not self.keypoint_count:
            self.counts["keypoints_unnamed"] += 1
            yield "keypoints left out", "the categories do not share one list of keypoint names"

    def _row(self, loaded: LoadedImage, objects: Sequence[ValidatedObject]) -> dict[str, Any]:
        image, geometry = loaded.record, loaded.geometry
        has_keypoints = self.keypoint_count > 0
        return {
            "image_bytes": loaded.data,
            "height": geometry.size.height,
            "width": geometry.size.width,
            "image_id": image.image_id,
            "file_name": image.file_name,
            "boxes": [item.box for item in objects],
            "labels": [item.label for item in objects],
            "polygons": [item.polygons for item in objects],
            "rle": [item.rle for item in objects],
            "iscrowd": [item.iscrowd for item in objects],
            "area": [item.area for item in objects],
            "annotation_id": [item.annotation_id for item in objects],
            "keypoints": [item.keypoints for item in objects] if has_keypoints else None,
            "orientation": geometry.orientation,
            "bit_depth": self.decoding.bit_depth,
            "source_image_id": image.source_id,
            "source_annotation_id": [item.source_id for item in objects],
        }


def _reject(
    image: ImageRecord, annotation: Annotation, reason: str, detail: str, corrected: bool = False
) -> Reject:
    ids = (image.file_name, image.image_id, annotation["id"])
    source_id = annotation.get("source_id")
    return Reject("annotation", *ids, reason, detail, corrected=corrected, source_id=source_id)
