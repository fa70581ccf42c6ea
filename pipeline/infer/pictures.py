"""Predictions drawn on their images, from the files they were written to."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
from pycocotools import mask as rle_codec

from model.config.keypoint_names import skeleton_of
from pipeline import storage
from pipeline.draw import DrawnObject, Skeleton, draw_objects, encode_png, found_keypoints
from pipeline.infer.inputs import InputPiece, read_images
from pipeline.infer.ledger import output_url
from pipeline.infer.prediction_rows import PredictedRow, read_predictions
from pipeline.shards.decode import decode_image

LEAST_DRAWN_SCORE = 0.5


def predicted_objects(
    row: PredictedRow, least_score: float, skeleton: Skeleton | None = None
) -> list[DrawnObject]:
    """What to draw of a row, the most certain last and so on top.

    Args:
        row: one image's detections.
        least_score: less certain ones are left out.
        skeleton: links between the keypoints; by default those that their names are known for.
    """
    links = skeleton_of(row.keypoint_names or ()) if skeleton is None else skeleton
    names = row.category_names or ["object"] * len(row.scores)
    return [
        DrawnObject(
            box=(row.boxes[n][0], row.boxes[n][1], row.boxes[n][2], row.boxes[n][3]),
            caption=f"{names[n]} {row.scores[n]:.2f}",
            colour_key=row.labels[n],
            bitmap=None if row.masks_rle is None else rle_codec.decode(row.masks_rle[n]),
            keypoints=None if row.keypoints is None else found_keypoints(row.keypoints[n]),
            skeleton=links,
        )
        for n in sorted(range(len(row.scores)), key=lambda n: row.scores[n])
        if row.scores[n] >= least_score
    ]


def predicted_images(
    pieces: Iterable[InputPiece], folder: str
) -> Iterator[tuple[np.ndarray, PredictedRow]]:
    """Readable images, (H, W, 3) uint8 RGB, each with its row, in the order of the input."""
    for piece in pieces:
        rows = read_predictions(output_url(folder, piece.name))
        for image, row in zip(read_images(piece), rows, strict=True):
            if row.error is None:
                yield decode_image(image.encoded), row


def draw_predictions(
    pieces: Iterable[InputPiece], predictions: str, folder: str, count: int
) -> list[str]:
    """Draw the first ``count`` readable images.

    Args:
        pieces: the input.
        predictions: URL of the folder of prediction files.
        folder: URL to write ``NN_name.png`` under.
        count: pictures at most.

    Returns:
        URLs of the pictures.
    """
    urls = []
    for number, (pixels, row) in enumerate(islice(predicted_images(pieces, predictions), count)):
        url = storage.join(folder, picture_name(number, row.file_name))
        drawn = draw_objects(pixels, predicted_objects(row, LEAST_DRAWN_SCORE))
        storage.write_bytes(url, encode_png(drawn))
        urls.append(url)
    return urls


def picture_name(number: int, file_name: str) -> str:
    """``03_000000397133.png``: numbered, so that equal names in different folders do not clash."""
    return f"{number:02d}_{Path(PurePosixPath(file_name).name).stem}.png"
