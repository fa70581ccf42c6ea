"""Read encoded images from a column of Parquet files."""

import bisect
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa

from pipeline import storage
from pipeline.infer.input_image import InputImage, describe_error
from pipeline.infer.inputs import InputChunk
from pipeline.infer.sources.named_files import check_version
from pipeline.infer.sources.parquet_column import Column, open_parquet
from pipeline.storage.retries import retry
from pipeline.storage.versions import file_url

_BATCH_ROWS = 16
_READ_BYTES = 8 << 20


def cell_name(file: str, row: int, column: str) -> str:
    """Return the name of an image: ``file.parquet[row].column``."""
    return f"{file}[{row}].{column}"


def _split_name(name: str, column: str) -> tuple[str, int]:
    """Return the file and the row of a name that `cell_name` returned."""
    file, _, row = name.removesuffix(f"].{column}").rpartition("[")
    return file, int(row)


@dataclass(frozen=True)
class EncodedColumn:
    """An `ImageReader` of images that are values of a column.

    Args:
        column: its name.
    """

    column: str

    def __call__(self, chunk: InputChunk) -> Iterator[InputImage]:
        """Yield the images of a chunk; those of a damaged part of a file have an error."""
        for number, (name, version) in enumerate(zip(chunk.files, chunk.versions, strict=True)):
            file, row = _split_name(name, self.column)
            try:
                cells = _open_cells(file_url(chunk.folder_url, file), version, self.column)
                yield chunk.image(number, cells.read(row))
            except (storage.MissingFileError, DamagedCellError) as error:
                yield chunk.image(number, error=str(error))


class DamagedCellError(Exception):
    """A row has no image, or the part of the file that it is in is damaged."""


# Chunks come in the order of the rows, so the next one goes on where the last has ended.
@functools.lru_cache(maxsize=1)
def _open_cells(url: str, version: str, column: str) -> "_Cells":
    return _Cells(url, version, column)


class _Cells:
    """The values of a column, read forward in batches.

    Args:
        url: of the Parquet file.
        version: that the plan has seen.
        column: its name.

    Raises:
        MissingFileError: the file is gone.
        StorageError: the file has changed, or cannot be read.
    """

    def __init__(self, url: str, version: str, column: str) -> None:
        check_version(url, version)
        self._url = url
        self._file = open_parquet(url)
        column_found = Column.find(self._file.schema_arrow, column)
        if column_found is None:
            raise storage.StorageError(f"{url} has no column {column}")
        self._column = column_found
        metadata = self._file.metadata
        rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(rows)]
        # Row group -> the first row that cannot be read, and why: the same in every process, since
        # each reads a row group from its beginning.
        self._damaged: dict[int, tuple[int, str]] = {}
        self._group, self._first = -1, 0
        self._values: pa.Array = pa.array([], pa.binary())
        self._batches: Iterator[pa.Array] = iter(())

    def read(self, row: int) -> bytes:
        """Return the image in a row.

        Raises:
            DamagedCellError: there is none, or it cannot be read.
            StorageError: the store cannot be read now.
        """
        group = bisect.bisect_right(self._starts, row) - 1
        if group not in self._damaged or row < self._damaged[group][0]:
            try:
                value = retry(self._url, lambda: self._value(group, row))
            except (storage.StorageError, pa.ArrowException) as error:
                first = self._first
                self._rewind()
                self._read_raw(group)  # raises if it is the store that fails
                cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
                self._damaged[group] = first, describe_error(cause)
            else:
                if value is None:
                    raise DamagedCellError(f"{self._url}: row {row} has no {self._column.name}")
                return value
        _, reason = self._damaged[group]
        raise DamagedCellError(f"{self._url}: row group {group} is damaged ({reason})")

    def _value(self, group: int, row: int) -> bytes | None:
        if group != self._group or row < self._first:
            self._rewind()
            self._group, self._first = group, self._starts[group]
            self._batches = self._column.batches(self._file, _BATCH_ROWS, [group])
        while row >= self._first + len(self._values):
            self._first += len(self._values)
            self._values = self._values[:0]
            try:
                self._values = next(self._batches)
            except StopIteration:
                raise pa.ArrowInvalid("the row group has fewer rows than it states") from None
            except BaseException:
                self._group = -1  # begins again
                raise
        value = self._values[row - self._first].as_py()
        return None if value is None else bytes(value)

    def _rewind(self) -> None:
        self._group, self._first = -1, 0
        self._values, self._batches = self._values[:0], iter(())

    def _read_raw(self, group: int) -> None:
        """Read the stored bytes of a row group of the column.

        Raises:
            StorageError: the store cannot be read.
        """
        store, path = storage.filesystem(self._url)
        columns = self._file.metadata.row_group(group)
        # The name of a column may have a dot in it.
        stored = ".".join(self._column.path)
        for number in range(columns.num_columns):
            part = columns.column(number)
            if not f"{part.path_in_schema}.".startswith(f"{stored}."):
                continue
            start = part.dictionary_page_offset or part.data_page_offset
            end = start + part.total_compressed_size

            def read(start: int = start, end: int = end) -> None:
                with store.open_input_file(path) as file:
                    file.seek(start)
                    while start < end and (content := file.read(min(end - start, _READ_BYTES))):
                        start += len(content)

            retry(self._url, read)
