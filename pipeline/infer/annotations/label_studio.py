"""Detections as tasks of Label Studio with predictions, and the interface to correct them in.

Label Studio's coordinates are percentages of the image's sides.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from pipeline.infer.annotations.mask_polygons import Outline
from pipeline.infer.detection_rows import DetectionRow
from pipeline.storage.azure_account import split_url
from pipeline.storage.urls import absolute, is_in_store, is_relative, scheme_of

_AZURE = "azure-blob://"
_STORES = ("s3://", "gs://", _AZURE)
_LOCAL_FILES = "/data/local-files/?d="


def image_address(name: str, url: str, prefix: str | None) -> str:
    """Return where Label Studio finds an image.

    Args:
        name: of the image, relative to its folder; or a URL or an absolute path itself.
        url: of the image.
        prefix: what stands before a relative name; None decides by ``url``.
    """
    if scheme_of(name) in ("http", "https"):
        return name
    if not is_relative(name):
        name, prefix = absolute(name), None
    if prefix is None and is_in_store(url):
        return _store_address(url)
    if prefix is not None and prefix.startswith(_STORES):
        return prefix + name  # the key itself, not escaped
    return (_LOCAL_FILES if prefix is None else prefix) + quote(name)


def _store_address(url: str) -> str:
    """Return the URL of an object as Label Studio spells it."""
    if scheme_of(url) in ("s3", "gs"):
        return url
    _, container, key = split_url(url)
    return f"{_AZURE}{container}/{key}"


def _label(class_name: str) -> str:
    """Return a class name without the characters that XML cannot hold."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "\ufffd", class_name)


def labeling_interface(class_names: Sequence[str], has_masks: bool) -> str:
    """Return the XML of a project's labeling interface, to paste into its settings."""
    tag = "PolygonLabels" if has_masks else "RectangleLabels"
    labels = "".join(f"    <Label value={quoteattr(_label(name))}/>\n" for name in class_names)
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <{tag} name="label" toName="image">\n{labels}  </{tag}>\n</View>\n'
    )


def label_studio_task(
    row: DetectionRow, outlines: Sequence[Outline] | None, image_url: str, model: str
) -> dict[str, Any]:
    """Return an image as a task whose prediction has a region per object, or part of an object.

    Args:
        row: the image's detections.
        outlines: of each object; None for a detector without masks, whose regions are boxes.
        image_url: where Label Studio finds the image.
        model: that made them, shown in the interface.
    """
    regions = [
        region
        for n in range(len(row.boxes))
        for region in _regions(row, n, None if outlines is None else outlines[n])
    ]
    # The lowest score sorts the tasks by how much there may be to correct.
    prediction = {"model_version": model, "score": min(row.scores, default=0.0), "result": regions}
    data = {"image": image_url, "image_id": row.image_id}
    return {"data": data, "predictions": [prediction]}


def _regions(row: DetectionRow, n: int, outline: Outline | None) -> Iterator[dict[str, Any]]:
    """Yield the regions of object ``n``."""
    height, width = row.height or 1, row.width or 1
    kind = "rectanglelabels" if outline is None else "polygonlabels"
    x1, y1, x2, y2 = row.boxes[n]
    values: list[dict[str, Any]] = [
        {
            **{"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0},
            **{"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height},
        }
    ]
    if outline is not None:
        values = [
            {"points": (polygon * (100 / width, 100 / height)).tolist(), "closed": True}
            for polygon in outline.polygons
        ]
    name = "object" if row.category_names is None else _label(row.category_names[n])
    for part, value in enumerate(values):
        yield {
            "id": f"{n + 1}" if len(values) == 1 else f"{n + 1}-{part + 1}",
            "type": kind,
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, kind: [name]},
            "score": row.scores[n],
        }
