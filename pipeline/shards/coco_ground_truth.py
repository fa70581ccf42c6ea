"""The COCO instances document of a folder of shards, as pycocotools reads it."""

from typing import Any

from pipeline.shards.keypoints import coco_category_keypoints, coco_keypoints
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.shards.row import ShardRow, read_rows


def coco_ground_truth(shards_url: str) -> dict[str, Any]:
    """The COCO instances document of a folder of shards, for pycocotools.

    Annotations are numbered anew from 1: pycocotools takes the id 0 for "no match".

    Raises:
        StorageError: no manifest, or a shard that cannot be read.
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
            number = len(document["annotations"]) + 1
            annotation = _annotation(row, index, manifest)
            document["annotations"].append({"id": number, **annotation})
    return document


def _annotation(row: ShardRow, index: int, manifest: Manifest) -> dict[str, Any]:
    x1, y1, x2, y2 = row.boxes[index].tolist()
    counts = row.rle[index]
    pointed: dict[str, Any] = {}
    if manifest.keypoints is not None and row.keypoints is not None:
        points = row.keypoints[index]
        pointed = {
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
        **pointed,
    }
