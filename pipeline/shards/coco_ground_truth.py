"""Ground truth of a folder of shards, in COCO's format for pycocotools."""

from typing import Any

from pipeline.shards.keypoints import coco_category_keypoints, coco_keypoints
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.shards.row import ShardRow, read_rows


def coco_ground_truth(shards_url: str) -> dict[str, Any]:
    """Build the COCO instances document of a folder of shards.

    Annotations are renumbered from 1, because pycocotools reads the id 0 as "no match".

    Raises:
        StorageError: there is no manifest, or a shard cannot be read.
    """
    manifest = read_manifest(shards_url)
    document: dict[str, Any] = {
        "info": {"description": manifest.digest},
        "categories": [
            category._asdict() | coco_category_keypoints(manifest.keypoints, category.id)
            for category in manifest.categories
        ],
        "images": [],
        "annotations": [],
    }
    rows = (
        row
        for file in manifest.files
        for row in read_rows(shards_url, file.name, with_images=False)
    )
    for row in rows:
        document["images"].append(
            {
                "id": row.image_id,
                "file_name": row.file_name,
                "height": row.size.height,
                "width": row.size.width,
            }
        )
        for index in range(len(row.labels)):
            annotation_id = len(document["annotations"]) + 1
            annotation = _annotation(row, index, manifest)
            document["annotations"].append({"id": annotation_id, **annotation})
    return document


def _annotation(row: ShardRow, index: int, manifest: Manifest) -> dict[str, Any]:
    x1, y1, x2, y2 = row.boxes[index].tolist()
    counts = row.rle[index]
    keypoints: dict[str, Any] = {}
    if manifest.keypoints is not None and row.keypoints is not None:
        points = row.keypoints[index]
        keypoints = {
            "keypoints": coco_keypoints(points.tolist()),
            "num_keypoints": int((points[:, 2] > 0).sum()),
        }
    return {
        "image_id": row.image_id,
        "category_id": manifest.categories[int(row.labels[index]) - 1].id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": float(row.area[index]),
        "iscrowd": int(row.iscrowd[index]),
        "segmentation": (
            [polygon.ravel().tolist() for polygon in row.polygons(index)]
            if counts is None
            else {"size": list(row.size), "counts": counts}
        ),
        **keypoints,
    }
