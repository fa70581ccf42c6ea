"""Objects drawn on a picture: box, translucent mask, name and score.

Letters: H W pixels, R objects.
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
GOLDEN_RATIO_PART = 0.618033988749895


@dataclass(frozen=True)
class DrawnObject:
    """One object to draw.

    Args:
        box: x1 y1 x2 y2, pixels of the picture.
        caption: what to write at its corner.
        colour_key: equal keys get equal colours, neighbouring keys distinct ones.
        bitmap: (H, W) 0/1 on the picture's canvas, or None.
    """

    box: tuple[float, float, float, float]
    caption: str
    colour_key: int
    bitmap: np.ndarray | None = None


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
        _write_caption(pen, drawn.caption, (x1, y1), picture.size, ink, font)
    return np.asarray(picture)


def draw_detections(
    image: np.ndarray, detections: Detections, names: Sequence[str], least_score: float = 0.0
) -> np.ndarray:
    """Draw what a detector found, the most certain on top.

    Args:
        image: (H, W, 3) uint8 RGB, the picture the detections belong to.
        detections: boxes and masks in the picture's own pixels; labels 1..K.
        names: the K class names.
        least_score: less certain detections are left out.

    Returns:
        (H', W', 3) uint8 RGB, as ``draw_objects``.
    """
    kept = detections.above(least_score).to("cpu")
    bitmaps = kept.bitmaps().numpy() if kept.masks is not None else [None] * len(kept)
    objects = [
        DrawnObject(tuple(box), f"{names[label - 1]} {score:.2f}", label, bitmap)
        for box, label, score, bitmap in zip(
            kept.boxes.tolist(), kept.labels.tolist(), kept.scores.tolist(), bitmaps, strict=True
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
