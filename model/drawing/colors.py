"""The colors of classes."""

import colorsys

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""

GOLDEN_RATIO_FRACTION = 0.618033988749895


def color_of(key: int) -> Color:
    """Return a vivid RGB color; golden-ratio steps keep neighboring keys far apart in hue."""
    hue = (key * GOLDEN_RATIO_FRACTION) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color_on(background: Color) -> str:
    """Return the color, black or white, of readable text on a background."""
    red, green, blue = background
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "black"
