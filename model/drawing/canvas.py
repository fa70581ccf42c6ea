"""Draw objects on an image. Shapes: H W pixels."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from model.drawing.colors import Color, color_of, text_color_on
from model.drawing.fonts import font_for
from model.drawing.label_layout import LabelLayout
from model.drawing.masks import mask_opacity, trim
from model.drawing.objects import DrawnObject

MIN_SHORT_SIDE = 320  # pixels; smaller images are enlarged so that labels are readable
MAX_ENLARGED_SIDE = 4096  # pixels; strips are not enlarged to gigabytes
MIN_TEXT_PIXELS = 13
MIN_LINE_PIXELS = 2


def draw_objects(
    image: npt.NDArray[np.uint8],
    objects: Sequence[DrawnObject],
    min_short_side: int = MIN_SHORT_SIDE,
) -> npt.NDArray[np.uint8]:
    """Draw ``objects`` in order, the last on top.

    Lines and labels grow with the image. Labels do not cover each other and stay within the image;
    where that leaves no room near an object, the objects drawn first have none.

    Args:
        image: (H, W, 3) uint8 RGB; not changed.
        objects: what to draw.
        min_short_side: a smaller image is enlarged, pixels.

    Returns:
        (zH, zW, 3) uint8 RGB; the zoom z is an integer, above 1 only for small images.
    """
    height, width = image.shape[:2]
    zoom = -(-min_short_side // min(height, width))
    zoom = max(1, min(zoom, MAX_ENLARGED_SIDE // max(height, width)))
    canvas = Image.fromarray(image)  # drawn on below, so it must not share memory with the image
    canvas = (
        canvas.copy()
        if zoom == 1
        else canvas.resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
    )
    enlarged = [_enlarge(each, zoom) for each in objects]
    line = line_pixels(canvas.width, canvas.height)
    pen = ImageDraw.Draw(canvas)
    for drawn in enlarged:
        _draw_mask(canvas, drawn, line)
    for drawn in enlarged:
        _draw_box(pen, drawn, line)
        _draw_keypoints(pen, drawn, line)
    _draw_labels(pen, enlarged, canvas.size)
    return np.asarray(canvas)


def line_pixels(width: int, height: int) -> int:
    """Return the width of lines on an image of this size."""
    return max(MIN_LINE_PIXELS, round(math.sqrt(width * height) / 400))


def text_pixels(width: int, height: int) -> int:
    """Return the size of text on an image of this size."""
    return max(MIN_TEXT_PIXELS, round(math.sqrt(width * height) / 60))


def _enlarge(drawn: DrawnObject, zoom: int) -> DrawnObject:
    """Return an object in the pixels of an image enlarged by an integer."""
    if zoom == 1:
        return drawn
    x1, y1, x2, y2 = (side * zoom for side in drawn.box)
    left, top = drawn.bitmap_corner
    bitmap, keypoints = drawn.bitmap, drawn.keypoints
    if bitmap is not None:
        bitmap = bitmap.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return replace(
        drawn,
        box=(x1, y1, x2, y2),
        bitmap=bitmap,
        bitmap_corner=(left * zoom, top * zoom),
        keypoints=None if keypoints is None else keypoints * [zoom, zoom, 1],
    )


def _draw_mask(canvas: Image.Image, drawn: DrawnObject, line: int) -> None:
    trimmed = None if drawn.bitmap is None else trim(drawn.bitmap)
    if trimmed is None:
        return
    bitmap, (x, y) = trimmed
    left, top = drawn.bitmap_corner
    opacity = Image.fromarray(mask_opacity(bitmap, line))
    canvas.paste(color_of(drawn.color_key), (left + x, top + y), opacity)


def _draw_box(pen: ImageDraw.ImageDraw, drawn: DrawnObject, line: int) -> None:
    x1, y1, x2, y2 = drawn.box
    corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
    pen.rectangle(corners, outline=color_of(drawn.color_key), width=line)


def _draw_keypoints(pen: ImageDraw.ImageDraw, drawn: DrawnObject, line: int) -> None:
    if drawn.keypoints is None:
        return
    color = color_of(drawn.color_key)
    points = drawn.keypoints[:, :2].tolist()
    visibility = drawn.keypoints[:, 2].tolist()
    for first, second in drawn.skeleton:
        if visibility[first] and visibility[second]:
            pen.line((*points[first], *points[second]), fill=color, width=line)
    for (x, y), visible in zip(points, visibility, strict=True):
        if visible:
            # The outline sets a keypoint off from a link or a mask of the same color.
            fill = "white" if visible == 1 else color
            pen.circle((x, y), 1.5 * line, fill=fill, outline="black")


def _draw_labels(
    pen: ImageDraw.ImageDraw, objects: Sequence[DrawnObject], size: tuple[int, int]
) -> None:
    """Draw the label of each object; those on top choose their positions first."""
    layout = LabelLayout(*size)
    text_size = text_pixels(*size)
    for drawn in reversed(objects):
        if drawn.caption:
            _draw_label(pen, drawn, layout, text_size)


def _draw_label(
    pen: ImageDraw.ImageDraw, drawn: DrawnObject, layout: LabelLayout, text_size: int
) -> None:
    font, margin = font_for(drawn.caption, text_size), max(2, text_size // 7)
    ascent, descent = font.getmetrics()
    text = " ".join(drawn.caption.split())  # a label is one line
    while len(text) > 1 and pen.textlength(text, font) + 2 * margin > layout.width:
        text = f"{text[:-2]}…"
    # Of one height, whatever letters are in it.
    label = (pen.textlength(text, font) + 2 * margin, ascent + descent + margin)
    corner = layout.place(drawn.box, label)
    if corner is None:
        return
    (x, y), (width, height) = corner, label
    color: Color = color_of(drawn.color_key)
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    text_corner = (x + margin, y + margin // 2)
    pen.text(text_corner, text, fill=text_color_on(color), font=font)
