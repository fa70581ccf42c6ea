"""Draw predicted objects on images, from the prediction files."""

import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path, PurePosixPath

from pycocotools import mask as rle_codec

from model.config.keypoint_names import skeleton_of
from model.drawing import DrawnObject, Skeleton, draw_objects, visible_keypoints
from pipeline import storage
from pipeline.draw import encode_png
from pipeline.infer.detection_files import iterate_detection_rows
from pipeline.infer.detection_rows import DetectionRow
from pipeline.infer.image_listing import IMAGES_FOLDER as IMAGES_FOLDER
from pipeline.infer.inputs import InputChunk, read_images
from pipeline.infer.ledger import output_url

MIN_DRAWN_SCORE = 0.5


def predicted_objects(
    row: DetectionRow, score_threshold: float, skeleton: Skeleton | None = None
) -> list[DrawnObject]:
    """Return the detections of a row, ready to draw, by ascending score: the highest is on top.

    Args:
        row: one image's detections.
        score_threshold: detections with a lower score are left out.
        skeleton: links between the keypoints; default: that of the keypoint names, if it is known.
    """
    links = skeleton_of(row.keypoint_names or ()) if skeleton is None else skeleton
    names = row.category_names or ["object"] * len(row.scores)
    return [
        DrawnObject(
            box=(row.boxes[n][0], row.boxes[n][1], row.boxes[n][2], row.boxes[n][3]),
            caption=f"{names[n]} {row.scores[n]:.2f}",
            color_key=row.labels[n],
            bitmap=None if row.masks_rle is None else rle_codec.decode(row.masks_rle[n]),
            keypoints=None if row.keypoints is None else visible_keypoints(row.keypoints[n]),
            skeleton=links,
        )
        for n in sorted(range(len(row.scores)), key=lambda n: row.scores[n])
        if row.scores[n] >= score_threshold
    ]


def draw_predictions(
    chunks: Iterable[InputChunk], predictions_url: str, images_url: str, count: int
) -> list[str]:
    """Draw the first ``count`` readable images.

    Args:
        chunks: the input.
        predictions_url: folder of the prediction files.
        images_url: folder to write ``NN_name.png`` to.
        count: maximum number of images.

    Returns:
        URLs of the images.
    """
    pairs = (
        pair
        for chunk in chunks
        for pair in zip(
            read_images(chunk),
            iterate_detection_rows(output_url(predictions_url, chunk.name)),
            strict=True,
        )
    )
    urls: list[str] = []
    for image, row in islice((pair for pair in pairs if pair[1].error is None), count):
        drawn = draw_objects(image.decode(), predicted_objects(row, MIN_DRAWN_SCORE))
        urls.append(storage.join(images_url, visualization_name(len(urls), row.file_name)))
        storage.write_bytes(urls[-1], encode_png(drawn))
    return urls


def visualization_name(index: int, file_name: str) -> str:
    """Return a name like ``03_000000397133.png``; the index separates equal names."""
    stem = Path(PurePosixPath(file_name).name).stem
    # File systems refuse NUL and names above 255 bytes, S3 servers backslashes.
    safe = re.sub(r"[\\\x00-\x1f]", "_", stem)[:60]
    return f"{index:02d}_{safe}.png"
