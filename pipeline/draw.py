"""Draw objects on an image: box, translucent mask, keypoints, caption.

Shapes: H W pixels, K classes, P keypoints.
"""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model import Detections

MIN_SHORT_SIDE = 480  # pixels; smaller images are enlarged so that captions are readable
MASK_OPACITY = 0.45
CAPTION_PIXELS = 14
KEYPOINT_RADIUS = 3  # pixels
MIN_DRAWN_LOGIT = 2.0  # score of a keypoint (Detectron's visualization)
GOLDEN_RATIO_FRACTION = 0.618033988749895


Skeleton = Sequence[tuple[int, int]]
"""Links between keypoints, as pairs of their indices."""


@dataclass(frozen=True)
class DrawnObject:
    """One object to draw.

    Args:
        box: x1 y1 x2 y2, pixels of the image.
        caption: text at the corner of the box.
        color_key: equal keys get equal colors, neighboring keys distinct ones.
        bitmap: (H, W) 0/1 mask of the whole image, or None.
        keypoints: (P, 3) x, y in pixels of the image, and visibility: 0 is not drawn, 1 (occluded)
            is white, 2 has the object's color; or None.
        skeleton: links, each drawn if both of its keypoints are.
    """

    box: tuple[float, float, float, float]
    caption: str
    color_key: int
    bitmap: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    skeleton: Skeleton = ()


def draw_objects(
    image: np.ndarray, objects: Sequence[DrawnObject], min_short_side: int = MIN_SHORT_SIDE
) -> np.ndarray:
    """Draw ``objects`` in order, the last on top.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        objects: what to draw.
        min_short_side: a smaller image is enlarged, pixels.

    Returns:
        (zH, zW, 3) uint8 RGB; the zoom z is an integer, above 1 only for small images.
    """
    height, width = image.shape[:2]
    zoom = max(1, -(-min_short_side // min(height, width)))
    pixels = np.asarray(
        Image.fromarray(image).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
    ).astype(np.float32)
    for drawn in objects:
        if drawn.bitmap is not None:
            inside = drawn.bitmap.astype(bool).repeat(zoom, axis=0).repeat(zoom, axis=1)
            tint = np.array(color_of(drawn.color_key), np.float32)
            pixels[inside] += MASK_OPACITY * (tint - pixels[inside])
    canvas = Image.fromarray(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(CAPTION_PIXELS)
    for drawn in objects:
        x1, y1, x2, y2 = (side * zoom for side in drawn.box)
        color = color_of(drawn.color_key)
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=2)
        if drawn.keypoints is not None:
            _draw_keypoints(pen, drawn.keypoints, drawn.skeleton, zoom, color)
        _draw_caption(pen, drawn.caption, (x1, y1), canvas.size, color, font)
    return np.asarray(canvas)


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    names: Sequence[str],
    score_threshold: float = 0.0,
    skeleton: Skeleton = (),
) -> np.ndarray:
    """Draw detections by ascending score: the highest is on top.

    Args:
        image: (H, W, 3) uint8 RGB, the image that the detections belong to.
        detections: boxes, masks and keypoints in the image's own pixels; labels 1..K.
        names: the K class names.
        score_threshold: detections with a lower score are left out.
        skeleton: links between the keypoints.

    Returns:
        (zH, zW, 3) uint8 RGB, as `draw_objects` returns.
    """
    kept = detections.above(score_threshold).to("cpu")
    bitmaps = kept.bitmaps().numpy() if kept.masks is not None else [None] * len(kept)
    keypoints = (
        [visible_keypoints(each) for each in kept.keypoints.tolist()]
        if kept.keypoints is not None
        else [None] * len(kept)
    )
    objects = [
        DrawnObject(tuple(box), f"{names[label - 1]} {score:.2f}", label, bitmap, points, skeleton)
        for box, label, score, bitmap, points in zip(
            kept.boxes.tolist(),
            kept.labels.tolist(),
            kept.scores.tolist(),
            bitmaps,
            keypoints,
            strict=True,
        )
    ]
    order = np.argsort(kept.scores.numpy(), kind="stable")
    return draw_objects(image, [objects[n] for n in order])


def visible_keypoints(points: Sequence[Sequence[float]]) -> np.ndarray:
    """Convert a detection's keypoints (x, y, logit) to those of `DrawnObject`, (P, 3).

    Keypoints with a logit below ``MIN_DRAWN_LOGIT`` are not drawn.
    """
    keypoints = np.array(points, dtype=np.float64).reshape(-1, 3)
    keypoints[:, 2] = np.where(keypoints[:, 2] >= MIN_DRAWN_LOGIT, 2, 0)
    return keypoints


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Join images, (H, W, 3) uint8 RGB each, from left to right, with a title above each."""
    return tile_images(images, titles, len(images))


def tile_images(images: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> np.ndarray:
    """Join images, (H, W, 3) uint8 RGB each, row by row, with a title above each.

    Columns are as wide as their widest image, rows as high as their highest.
    """
    gap, head = 8, CAPTION_PIXELS + 10  # pixels
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    heights = [max(image.shape[0] for image in row) + head for row in rows]
    widths = [
        max(image.shape[1] for image in images[column::columns])
        for column in range(min(columns, len(images)))
    ]
    size = (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(CAPTION_PIXELS)
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, columns)
        left, top = sum(widths[:column]) + gap * column, sum(heights[:row]) + gap * row
        pen.text((left + 4, top + 4), title, fill="black", font=font)
        sheet.paste(Image.fromarray(image), (left, top + head))
    return np.asarray(sheet)


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image, (H, W, 3) uint8 RGB, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def color_of(key: int) -> tuple[int, int, int]:
    """Return a vivid RGB color; golden-ratio steps keep neighboring keys far apart in hue."""
    hue = (key * GOLDEN_RATIO_FRACTION) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    keypoints: np.ndarray,
    skeleton: Skeleton,
    zoom: int,
    color: tuple[int, int, int],
) -> None:
    points = (keypoints[:, :2] * zoom).tolist()
    visibility = keypoints[:, 2].tolist()
    for first, second in skeleton:
        if visibility[first] and visibility[second]:
            pen.line((*points[first], *points[second]), fill=color, width=2)
    for (x, y), visible in zip(points, visibility, strict=True):
        if visible:
            # The outline sets a keypoint off from a link or a mask of the same color.
            fill = "white" if visible == 1 else color
            pen.circle((x, y), KEYPOINT_RADIUS, fill=fill, outline="black")


def _draw_caption(
    pen: ImageDraw.ImageDraw,
    text: str,
    corner: tuple[float, float],
    canvas: tuple[int, int],
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 4, bottom - top + 4
    # Above the box if there is room, otherwise inside it; always within the image.
    x = min(max(0.0, corner[0]), max(0.0, canvas[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = min(max(0.0, y), max(0.0, canvas[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=color)
    is_dark = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] < 140
    pen.text((x + 2 - left, y + 2 - top), text, fill="white" if is_dark else "black", font=font)
