"""The images in a column of Parquet files: encoded images, or paths and URLs of images."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat, tee
from typing import Any

import pyarrow as pa

from model.config.settings import ConfigError
from model.structures import Category
from pipeline import storage
from pipeline.infer.image_listing import ImageListing
from pipeline.infer.inputs import ImageReader
from pipeline.infer.listed_image import ListedImage
from pipeline.infer.sources.encoded_column import EncodedColumn, cell_name
from pipeline.infer.sources.named_files import (
    file_versions,
    folder_of,
    read_named_files,
    resolve,
)
from pipeline.infer.sources.parquet_column import Column, describe_columns, open_parquet
from pipeline.infer.sources.source import LISTED_TWICE, is_new
from pipeline.ingest.identifiers import IdTable, id_text
from pipeline.storage.versions import file_url

PARQUET_SUFFIX = ".parquet"


@dataclass(frozen=True)
class _File:
    """A Parquet file that has the columns.

    Args:
        name: relative to the folder.
        url: of the file.
        version: of the file.
        rows: number of rows.
        images: the column of images.
        ids: the column of ids.
    """

    name: str
    url: str
    version: str
    rows: int
    images: Column
    ids: Column | None

    def values(self, column: Column) -> Iterator[Any]:
        """Yield all values of a column."""
        yield from column.values(open_parquet(self.url))


class ParquetFiles:
    """An `ImageSource`: the rows of a Parquet file, or of all Parquet files below a folder.

    An encoded image is identified by its file, row and column, and by the version of the file: of a
    file that is written again, all rows are predicted on again. An image with a path or URL is
    identified by that and the version of what it names, wherever its row is.

    Args:
        url: of the file or folder.
        image_column: name of a column of binary values (encoded images) or strings (paths relative
            to the folder of the files, absolute paths, or URLs); ``column.field`` for a field of a
            struct.
        id_column: name of a column of ids, integers or strings, without repetition; None numbers
            the images.
        output_url: folder of the predictions; files in it are no input.

    Raises:
        MissingFileError: there is no Parquet file.
        ConfigError: a file lacks a column, or it has the wrong type.
        StorageError: a file is damaged.
    """

    categories: Sequence[Category] = ()

    def __init__(
        self, url: str, image_column: str, id_column: str | None = None, output_url: str = ""
    ) -> None:
        self._listed_url = storage.absolute(url)
        self.images = 0
        self.skipped: Counter[str] = Counter()
        listing = ImageListing(self._listed_url, output_url, (PARQUET_SUFFIX,))
        listed = list(listing)
        # Names are relative to the folder, for a single file too. Its name alone does not tell:
        # Spark and Dask write folders that are called table.parquet.
        is_file = any(file.name == "" for file in listed)
        self.url = folder_of(self._listed_url) if is_file else self._listed_url
        self._files = [
            _open(
                file.name or self._listed_url.rpartition("/")[2],
                file_url(self._listed_url, file.name),
                file.version,
                image_column,
                id_column,
            )
            for file in listed
        ]
        self._other_files = listing.skipped
        if not self._files:
            raise storage.MissingFileError(f"{url}: no Parquet file is there; check the URL")
        if len({file.images.kind for file in self._files}) > 1:
            raise ConfigError(
                [f"infer.image_column: {image_column} is binary in some files, text in others"]
            )
        self._names_files = self._files[0].images.kind == "text"
        self.reader: ImageReader = EncodedColumn(image_column)
        if self._names_files:
            self.reader = read_named_files

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the images in the order of the files and rows.

        Raises:
            StorageError: an id is missing or stands there twice, or a store cannot be read.
        """
        self.images, self.skipped = 0, Counter(self._other_files)
        has_ids = self._files[0].ids is not None
        listed = self._named(keep_repeated=has_ids) if self._names_files else self._encoded()
        without: tuple[int | None, str | None] = (None, None)
        ids = self._ids() if has_ids else repeat(without)
        for (name, version), (image_id, source_id) in zip(listed, ids, strict=has_ids):
            self.images += 1
            yield ListedImage(name, version, image_id, source_id)

    def describe_empty(self) -> str:
        """Return the error for files without rows."""
        return f"{self._listed_url}: the Parquet files have no rows"

    def image_url(self, name: str) -> str | None:
        """Return the URL of an image; None if it is a value in a file."""
        return resolve(name, self.url) if self._names_files else None

    def _encoded(self) -> Iterator[tuple[str, str]]:
        for file in self._files:
            for row in range(file.rows):
                yield cell_name(file.name, row, file.images.name), file.version

    def _named(self, keep_repeated: bool) -> Iterator[tuple[str, str]]:
        names, same_names = tee(self._names(keep_repeated))
        urls = (url for _, url in same_names)
        for (name, _), version in zip(names, file_versions(urls), strict=True):
            yield name, version

    def _names(self, keep_repeated: bool) -> Iterator[tuple[str, str | None]]:
        """Yield the name of each image and its URL, which is None where the column is empty."""
        seen: set[bytes] = set()
        for file in self._files:
            for row, name in enumerate(file.values(file.images)):
                if not name:
                    yield cell_name(file.name, row, file.images.name), None
                elif keep_repeated or is_new(name, seen):
                    yield name, resolve(name, self.url)
                else:
                    self.skipped[LISTED_TWICE] += 1

    def _ids(self) -> Iterator[tuple[int | None, str | None]]:
        """Yield the id of each row, and the id as JSON where it is no integer."""
        given = [value for file in self._files if file.ids for value in file.values(file.ids)]
        column = self._files[0].ids
        name = "" if column is None else column.name
        if None in given:
            raise storage.StorageError(
                f"{self._listed_url}: {given.count(None)} rows have no {name}, the id; "
                "infer.id_column needs a value in each row"
            )
        if repeated := [value for value, count in Counter(given).items() if count > 1]:
            raise storage.StorageError(
                f"{self._listed_url}: {len(repeated)} values of {name} are there more than once, "
                f"such as {repeated[0]!r}; infer.id_column needs a value of its own in each row"
            )
        table = IdTable(given)
        for value in given:
            number = table.find(value)
            yield number, None if number == value else id_text(value)


def _open(name: str, url: str, version: str, image_column: str, id_column: str | None) -> _File:
    file = open_parquet(url)
    schema = file.schema_arrow
    images = _find(schema, url, "image_column", image_column, ("binary", "text"))
    ids = None
    if id_column is not None:
        ids = _find(schema, url, "id_column", id_column, ("integer", "text"))
    return _File(name, url, version, file.metadata.num_rows, images, ids)


def _find(schema: pa.Schema, url: str, key: str, name: str, kinds: tuple[str, str]) -> Column:
    column = Column.find(schema, name)
    if column is None:
        raise ConfigError(
            [f"infer.{key}: {url} has no column {name}; it has {describe_columns(schema)}"]
        )
    if column.kind not in kinds:
        raise ConfigError(
            [
                f"infer.{key}: must be a column of {kinds[0]} or {kinds[1]} values; {name} of "
                f"{url} has others ({describe_columns(schema)})"
            ]
        )
    return column


def describe_file(url: str) -> str:
    """Return the columns of a Parquet file, for an error."""
    return describe_columns(open_parquet(url).schema_arrow)
