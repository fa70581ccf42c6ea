"""Ground truth and prediction side by side."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from pycocotools import mask as rle_codec

from pipeline import storage
from pipeline.draw import DrawnObject, draw_objects, encode_png, side_by_side
from pipeline.infer.inputs import InputPiece
from pipeline.infer.ledger import output_url
from pipeline.infer.pictures import LEAST_DRAWN_SCORE, picture_name, predicted_objects
from pipeline.infer.prediction_rows import read_predictions
from pipeline.shards.decode import decode_image
from pipeline.shards.manifest import Manifest
from pipeline.shards.row import ShardRow, read_rows


def true_objects(row: ShardRow, manifest: Manifest) -> list[DrawnObject]:
    """What to draw of a row's annotations; crowd regions say so."""
    objects = []
    for n, (label, box) in enumerate(zip(row.labels.tolist(), row.boxes.tolist(), strict=True)):
        crowd = " (crowd)" if row.iscrowd[n] else ""
        objects.append(
            DrawnObject(
                box=(box[0], box[1], box[2], box[3]),
                caption=manifest.categories[label - 1].name + crowd,
                colour_key=label,
                bitmap=_bitmap(row, n),
                keypoints=None if row.keypoints is None else row.keypoints[n],
                skeleton=manifest.keypoints.skeleton if manifest.keypoints else (),
            )
        )
    return objects


def draw_comparisons(
    pieces: Sequence[InputPiece],
    manifest: Manifest,
    predictions: str,
    folder: str,
    count: int,
) -> list[str]:
    """Draw the first ``count`` readable images of a folder of shards.

    Args:
        pieces: the shards.
        manifest: of the shards.
        predictions: URL of the folder of prediction files.
        folder: URL to write ``NN_name.png`` under.
        count: pictures at most.

    Returns:
        URLs of the pictures.
    """
    urls: list[str] = []
    skeleton = manifest.keypoints.skeleton if manifest.keypoints else ()
    rows = (
        pair
        for piece in pieces
        for pair in zip(
            read_rows(piece.folder, piece.files[0]),
            read_predictions(output_url(predictions, piece.name)),
            strict=True,
        )
    )
    for truth, predicted in islice((pair for pair in rows if pair[1].error is None), count):
        pixels = decode_image(truth.image_bytes)
        picture = side_by_side(
            [
                draw_objects(pixels, true_objects(truth, manifest)),
                draw_objects(pixels, predicted_objects(predicted, LEAST_DRAWN_SCORE, skeleton)),
            ],
            ["ground truth", f"predictions from score {LEAST_DRAWN_SCORE}"],
        )
        urls.append(storage.join(folder, picture_name(len(urls), truth.file_name)))
        storage.write_bytes(urls[-1], encode_png(picture))
    return urls


def _bitmap(row: ShardRow, index: int) -> np.ndarray | None:
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
