"""Objects drawn on a picture: box, translucent mask, keypoints, name and score.

Letters: H W pixels, R objects, P keypoints.
"""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model import Detections

SHORTEST_SIDE = 480  # pixels; smaller pictures are enlarged so that captions can be read
MASK_OPACITY = 0.45
CAPTION_PIXELS = 14
POINT_RADIUS = 3  # pixels
LEAST_DRAWN_LOGIT = 2.0  # of a keypoint (Detectron's visualisation)
GOLDEN_RATIO_PART = 0.618033988749895


Skeleton = Sequence[tuple[int, int]]
"""Links between keypoints, as pairs of their indices."""


@dataclass(frozen=True)
class DrawnObject:
    """One object to draw.

    Args:
        box: x1 y1 x2 y2, pixels of the picture.
        caption: what to write at its corner.
        colour_key: equal keys get equal colours, neighbouring keys distinct ones.
        bitmap: (H, W) 0/1 on the picture's canvas, or None.
        keypoints: (P, 3) x, y in pixels of the picture and visibility: 0 is not drawn, 1 (hidden)
            is white, 2 has the object's colour; or None.
        skeleton: links to draw where both ends are.
    """

    box: tuple[float, float, float, float]
    caption: str
    colour_key: int
    bitmap: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    skeleton: Skeleton = ()


def draw_objects(image: np.ndarray, objects: Sequence[DrawnObject]) -> np.ndarray:
    """Draw ``objects`` in order, the last on top.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        objects: what to draw.

    Returns:
        (H', W', 3) uint8 RGB; H' and W' are a whole multiple of H and W, larger for small pictures.
    """
    height, width = image.shape[:2]
    zoom = max(1, -(-SHORTEST_SIDE // min(height, width)))
    canvas = np.asarray(
        Image.fromarray(image).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
    ).astype(np.float32)
    for drawn in objects:
        if drawn.bitmap is not None:
            inside = drawn.bitmap.astype(bool).repeat(zoom, axis=0).repeat(zoom, axis=1)
            tint = np.array(colour(drawn.colour_key), np.float32)
            canvas[inside] += MASK_OPACITY * (tint - canvas[inside])
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(CAPTION_PIXELS)
    for drawn in objects:
        x1, y1, x2, y2 = (side * zoom for side in drawn.box)
        ink = colour(drawn.colour_key)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=ink, width=2)
        if drawn.keypoints is not None:
            _draw_keypoints(pen, drawn.keypoints, drawn.skeleton, zoom, ink)
        _write_caption(pen, drawn.caption, (x1, y1), picture.size, ink, font)
    return np.asarray(picture)


def found_keypoints(points: Sequence[Sequence[float]]) -> np.ndarray:
    """(P, 3) of `DrawnObject` from a detection's x, y and logits; unsure points are not drawn."""
    drawn = np.array(points, dtype=np.float64).reshape(-1, 3)
    drawn[:, 2] = np.where(drawn[:, 2] >= LEAST_DRAWN_LOGIT, 2, 0)
    return drawn


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    names: Sequence[str],
    least_score: float = 0.0,
    skeleton: Skeleton = (),
) -> np.ndarray:
    """Draw what a detector found, the most certain on top.

    Args:
        image: (H, W, 3) uint8 RGB, the picture the detections belong to.
        detections: boxes, masks and keypoints in the picture's own pixels; labels 1..K.
        names: the K class names.
        least_score: less certain detections are left out.
        skeleton: links between the keypoints.

    Returns:
        (H', W', 3) uint8 RGB, as ``draw_objects``.
    """
    kept = detections.above(least_score).to("cpu")
    bitmaps = kept.bitmaps().numpy() if kept.masks is not None else [None] * len(kept)
    points = (
        [found_keypoints(each) for each in kept.keypoints.tolist()]
        if kept.keypoints is not None
        else [None] * len(kept)
    )
    objects = [
        DrawnObject(tuple(box), f"{names[label - 1]} {score:.2f}", label, bitmap, places, skeleton)
        for box, label, score, bitmap, places in zip(
            kept.boxes.tolist(),
            kept.labels.tolist(),
            kept.scores.tolist(),
            bitmaps,
            points,
            strict=True,
        )
    ]
    order = np.argsort(kept.scores.numpy(), kind="stable")
    return draw_objects(image, [objects[n] for n in order])


def side_by_side(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """One picture of several, (H, W, 3) uint8 RGB each, left to right, a title over each."""
    gap, head = 8, CAPTION_PIXELS + 10
    height = max(picture.shape[0] for picture in pictures) + head
    width = sum(picture.shape[1] for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    left = 0
    for picture, title in zip(pictures, titles, strict=True):
        pen.text((left + 4, 4), title, fill="black", font=ImageFont.load_default(CAPTION_PIXELS))
        sheet.paste(Image.fromarray(picture), (left, head))
        left += picture.shape[1] + gap
    return np.asarray(sheet)


def encode_png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def colour(key: int) -> tuple[int, int, int]:
    """A vivid RGB colour; steps of the golden ratio keep any run of keys far apart in hue."""
    hue = (key * GOLDEN_RATIO_PART) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    zoom: int,
    ink: tuple[int, int, int],
) -> None:
    places = (keypoints[:, :2] * zoom).tolist()
    visibility = keypoints[:, 2].tolist()
    for first, second in skeleton:
        if visibility[first] and visibility[second]:
            pen.line((*places[first], *places[second]), fill=ink, width=2)
    for (x, y), seen in zip(places, visibility, strict=True):
        if seen:
            # The rim tells a point from a link and a mask of its colour.
            around = (x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS)
            pen.ellipse(around, fill="white" if seen == 1 else ink, outline="black")


def _write_caption(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    canvas: tuple[int, int],
    ink: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    # Above the box where there is room, else inside it; never over the picture's edge.
    x = min(max(0.0, corner[0]), max(0.0, canvas[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = min(max(0.0, y), max(0.0, canvas[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=ink)
    dark = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] < 140
    pen.text((x + 2 - left, y + 2 - top), text, fill="white" if dark else "black", font=font)
