"""What every source of images has: it lists them, and names the function that reads them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol

from model.structures import Category
from pipeline.infer.inputs import ImageReader
from pipeline.infer.listed_image import ListedImage

LISTED_TWICE = "(listed twice)"


class ImageSource(Protocol):
    """An input of batch inference that is no folder of shards.

    Attributes:
        url: of the input; what the names of its images are relative to.
        images: number of images listed so far.
        skipped: reason -> number of files or entries of the input that are no images to predict
            on, so far.
        categories: the classes that the input itself names; empty if it names none.
        reader: reads the images of a chunk.
    """

    url: str
    images: int
    skipped: Counter[str]
    categories: Sequence[Category]
    reader: ImageReader

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the images, in an order that depends on nothing but the input.

        Raises:
            StorageError: the input cannot be read.
        """

    def describe_empty(self) -> str:
        """Return the error for an input without images."""

    def image_url(self, name: str) -> str | None:
        """Return the URL of an image; None if it is no file of its own."""


def is_new(name: str, seen: set[bytes]) -> bool:
    """Whether a name was not seen before; add it to ``seen``, which holds digests of names."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if digest in seen:
        return False
    seen.add(digest)
    return True
