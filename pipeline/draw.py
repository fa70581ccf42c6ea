"""Sheets of several images with titles, and PNG files of them. Shapes: H W pixels."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TITLE_PIXELS = 14


def side_by_side(images: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Join images, (H, W, 3) uint8 RGB each, from left to right, with a title above each."""
    return tile_images(images, titles, len(images))


def tile_images(images: Sequence[np.ndarray], titles: Sequence[str], columns: int) -> np.ndarray:
    """Join images, (H, W, 3) uint8 RGB each, row by row, with a title above each.

    Columns are as wide as their widest image, rows as high as their highest.
    """
    gap, head = 8, TITLE_PIXELS + 10  # pixels
    rows = [images[first : first + columns] for first in range(0, len(images), columns)]
    heights = [max(image.shape[0] for image in row) + head for row in rows]
    widths = [
        max(image.shape[1] for image in images[column::columns])
        for column in range(min(columns, len(images)))
    ]
    size = (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TITLE_PIXELS)
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
