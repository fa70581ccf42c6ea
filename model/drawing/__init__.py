"""Objects drawn on images: masks with outlines, boxes, keypoints, and labels beside them.

Needs NumPy and Pillow. Not the library supervision (0.31): it needs OpenCV and SciPy and a bitmap
of the whole image for each mask, and labels of crowded objects overlap.
"""

from model.drawing.canvas import draw_objects
from model.drawing.colors import color_of
from model.drawing.objects import DrawnObject, Skeleton, detected_objects, visible_keypoints

__all__ = [
    "DrawnObject",
    "Skeleton",
    "color_of",
    "detected_objects",
    "draw_objects",
    "visible_keypoints",
]
