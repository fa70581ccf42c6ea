"""The images that a text file lists, one path or URL per line."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import tee

from model.structures import Category
from pipeline import storage
from pipeline.infer.inputs import ImageReader
from pipeline.infer.listed_image import ListedImage
from pipeline.infer.sources.named_files import (
    file_versions,
    folder_of,
    read_named_files,
    resolve,
)
from pipeline.infer.sources.source import LISTED_TWICE, is_new

LIST_SUFFIX = ".txt"
_COMMENT = "#"


class ListFile:
    """An `ImageSource`: lines are paths relative to the file's folder, absolute paths, or URLs.

    Blank lines and lines that begin with # are left out, and so is a line that stands there twice.

    Args:
        list_url: of the text file, in UTF-8.
    """

    categories: Sequence[Category] = ()
    reader: ImageReader = staticmethod(read_named_files)

    def __init__(self, list_url: str) -> None:
        self._list_url = storage.absolute(list_url)
        self.url = folder_of(self._list_url)
        self.images = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the images in the order of the lines; a missing one is listed too.

        Raises:
            MissingFileError: there is no such text file.
            StorageError: it is no text, or a store cannot be read.
        """
        self.images, self.skipped = 0, Counter()
        names, same_names = tee(self._names())
        versions = file_versions(resolve(name, self.url) for name in same_names)
        for name, version in zip(names, versions, strict=True):
            self.images += 1
            yield ListedImage(name, version)

    def describe_empty(self) -> str:
        """Return the error for a file without lines."""
        return f"{self._list_url} lists no images; write one path or URL per line"

    def image_url(self, name: str) -> str:
        """Return the URL of an image."""
        return resolve(name, self.url)

    def _names(self) -> Iterator[str]:
        seen: set[bytes] = set()
        for line in self._lines():
            name = line.strip()
            if not name or name.startswith(_COMMENT):
                continue
            if is_new(name, seen):
                yield name
            else:
                self.skipped[LISTED_TWICE] += 1

    def _lines(self) -> Iterator[str]:
        with storage.fetch(self._list_url) as path:
            if path.is_dir():
                raise storage.StorageError(f"{self._list_url} is a folder, not a text file")
            try:
                with path.open(encoding="utf-8-sig") as file:
                    yield from file
            except UnicodeDecodeError as error:
                raise storage.StorageError(
                    f"{self._list_url} is no text in UTF-8 ({error}); a list has one path or URL "
                    "per line"
                ) from None
