"""Annotations from a function of the user, for formats that no other source reads.

The function returns a COCO document, or dataset dicts as detectron2's registered functions do,
together with their classes.
"""

import json
import os
import posixpath
from collections.abc import Mapping
from typing import Any

from model.config.user_functions import UserCodeError, call_function, find_function
from pipeline import storage
from pipeline.ingest.coco import parse_coco
from pipeline.ingest.detectron2_dicts import coco_document
from pipeline.ingest.listing import Listing

_RETURNS = (
    "a COCO document (a dict with images, annotations and categories), or detectron2's dataset "
    "dicts and their classes (a list and a list)"
)


def read_function(name: str, arguments: Mapping[str, Any], images_url: str) -> Listing:
    """Call a function and list what it returns.

    Args:
        name: ``package.module:function``, found as by ``import`` or in the current folder.
        arguments: keyword arguments of the call.
        images_url: folder of the images; file names are relative to it, or begin with it.

    Raises:
        ConfigError: there is no such function.
        StorageError: it fails, or returns something else.
    """
    try:
        result = call_function(find_function(name, "data"), name, arguments)
    except UserCodeError as error:
        raise storage.StorageError(str(error)) from error
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], list):
        try:
            result = coco_document(*result)
        except (ValueError, TypeError) as error:
            raise storage.StorageError(f"{name}: {error}") from error
    if not isinstance(result, dict):
        raise storage.StorageError(f"{name} returned a {type(result).__name__}, not {_RETURNS}")
    if isinstance(images := result.get("images"), list | tuple):
        result = {**result, "images": [_relative(image, images_url) for image in images]}
    try:
        data = json.dumps(result, default=_plain).encode()
    except (TypeError, ValueError) as error:
        raise storage.StorageError(f"{name} returned what JSON cannot hold: {error}") from error
    return parse_coco(data, name, images_url)


def _relative(image: Any, images_url: str) -> Any:
    """Return an image record whose file name is relative to the folder of the images."""
    name = image.get("file_name") if isinstance(image, dict) else None
    if not isinstance(name, str | os.PathLike):
        return image
    relative = os.fspath(name)
    for folder in (storage.absolute(images_url), images_url):
        relative = relative.removeprefix(folder.rstrip("/") + "/")
    if posixpath.isabs(relative) or "://" in relative:
        raise storage.StorageError(
            f"the image {name} is not below {images_url}; set images to a folder that contains all "
            "images"
        )
    return {**image, "file_name": relative}


def _plain(value: Any) -> Any:
    """Convert what NumPy users have instead of Python's numbers and lists."""
    if isinstance(value, bytes):
        return value.decode()  # counts of pycocotools' run lengths
    if getattr(value, "ndim", 0) == 2 and str(value.dtype) in ("bool", "uint8"):
        raise TypeError("a bitmap; encode masks with pycocotools.mask.encode, or give polygons")
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a value of type {type(value).__name__}")
