"""Draw ground truth and predictions side by side."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from pycocotools import mask as rle_codec

from model.drawing import DrawnObject, draw_objects
from pipeline import storage
from pipeline.draw import encode_png, side_by_side
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.inputs import InputChunk
from pipeline.infer.ledger import output_url
from pipeline.infer.visualizations import (
    MIN_DRAWN_SCORE,
    predicted_objects,
    visualization_name,
)
from pipeline.shards.manifest import Manifest
from pipeline.shards.row import ShardRow, read_rows


def ground_truth_objects(row: ShardRow, manifest: Manifest) -> list[DrawnObject]:
    """Return the annotated objects of a row, ready to draw; captions mark crowd regions."""
    objects = []
    for n, (label, box) in enumerate(zip(row.labels.tolist(), row.boxes.tolist(), strict=True)):
        crowd = " (crowd)" if row.iscrowd[n] else ""
        objects.append(
            DrawnObject(
                box=(box[0], box[1], box[2], box[3]),
                caption=manifest.categories[label - 1].name + crowd,
                color_key=label,
                bitmap=_bitmap(row, n),
                keypoints=None if row.keypoints is None else row.keypoints[n],
                skeleton=manifest.keypoints.skeleton if manifest.keypoints else (),
            )
        )
    return objects


def draw_comparisons(
    chunks: Sequence[InputChunk],
    manifest: Manifest,
    predictions_url: str,
    images_url: str,
    count: int,
) -> list[str]:
    """Draw ground truth and predictions of the first ``count`` readable images of a dataset.

    Args:
        chunks: the shards of the dataset.
        manifest: the manifest of the dataset.
        predictions_url: folder of the prediction files.
        images_url: folder to write ``NN_name.png`` to.
        count: maximum number of images.

    Returns:
        URLs of the images.
    """
    urls: list[str] = []
    skeleton = manifest.keypoints.skeleton if manifest.keypoints else ()
    pairs = (
        pair
        for chunk in chunks
        for pair in zip(
            read_rows(chunk.folder_url, chunk.files[0]),
            read_detection_rows(output_url(predictions_url, chunk.name)),
            strict=True,
        )
    )
    readable = (pair for pair in pairs if pair[1].error is None)
    for annotated, predicted in islice(readable, count):
        pixels = annotated.decode()
        comparison = side_by_side(
            [
                draw_objects(pixels, ground_truth_objects(annotated, manifest)),
                draw_objects(pixels, predicted_objects(predicted, MIN_DRAWN_SCORE, skeleton)),
            ],
            ["ground truth", f"predictions with score >= {MIN_DRAWN_SCORE}"],
        )
        urls.append(storage.join(images_url, visualization_name(len(urls), annotated.file_name)))
        storage.write_bytes(urls[-1], encode_png(comparison))
    return urls


def _bitmap(row: ShardRow, index: int) -> np.ndarray | None:
    """Return the (H, W) 0/1 mask of an object, or None if it has no mask."""
    height, width = row.size
    counts = row.rle[index]
    if counts is not None:
        bitmap: np.ndarray = rle_codec.decode({"size": [height, width], "counts": counts})
        return bitmap
    polygons = [polygon.ravel().tolist() for polygon in row.polygons(index)]
    if not polygons:
        return None
    merged = rle_codec.merge(rle_codec.frPyObjects(polygons, height, width))
    bitmap = rle_codec.decode(merged)
    return bitmap
