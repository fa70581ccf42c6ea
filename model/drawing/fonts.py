"""Fonts for labels in any script."""

import functools

from PIL import ImageFont

_WIDE_FONTS = (
    *("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "msyh.ttc"),
    *("PingFang.ttc", "DejaVuSans.ttf"),
)
"""Fonts of many scripts on Linux, macOS and Windows, widest first."""


@functools.lru_cache(maxsize=64)
def font_for(text: str, pixels: int) -> ImageFont.FreeTypeFont:
    """Return a font of this size that has the characters of a text.

    Pillow's own font is used for ASCII. For other characters it is a font of the system, if one of
    the common ones is installed.
    """
    if not text.isascii():
        for name in _WIDE_FONTS:
            try:
                return ImageFont.truetype(name, pixels)
            except OSError:
                continue
    font = ImageFont.load_default(pixels)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("labels need a Pillow with FreeType: pip install --upgrade pillow")
    return font
