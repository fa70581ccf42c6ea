"""A column of a Parquet file that holds images or what names them: its kind and its values."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.storage.retries import retry

Kind = Literal["binary", "text", "integer", "other"]

_BUFFER_BYTES = 1 << 20  # streams a column in pages: one row group may hold all images of a file


def open_parquet(url: str) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        MissingFileError: there is no such file.
        StorageError: it cannot be read, or is no Parquet file.
    """
    store, path = storage.filesystem(url)
    try:
        return retry(
            url, lambda: pq.ParquetFile(store.open_input_file(path), buffer_size=_BUFFER_BYTES)
        )
    except (pa.ArrowInvalid, storage.StorageError) as error:
        cause = error if isinstance(error, pa.ArrowInvalid) else error.__cause__
        if not isinstance(cause, pa.ArrowInvalid):
            raise
        raise storage.StorageError(f"{url}: not a complete Parquet file ({cause})") from error


@dataclass(frozen=True)
class Column:
    """A column, or a field of a struct.

    Args:
        name: as it is given.
        path: the column and the fields on the way to the values.
        kind: of the values.
    """

    name: str
    path: tuple[str, ...]
    kind: Kind

    @classmethod
    def find(cls, schema: pa.Schema, name: str) -> "Column | None":
        """Return the column ``name``, or the field ``column.field``; None if there is none."""
        path = (name,) if name in schema.names else tuple(name.split("."))
        kind = _child(pa.struct(schema), path[0])
        for part in path[1:]:
            kind = None if kind is None else _child(kind, part)
        return None if kind is None else cls(name, path, _kind(kind))

    def batches(
        self, file: pq.ParquetFile, size: int, row_groups: list[int] | None = None
    ) -> Iterator[pa.Array]:
        """Yield the values in batches of at most ``size`` rows."""
        for batch in file.iter_batches(size, row_groups=row_groups, columns=[".".join(self.path)]):
            values = batch.column(0)
            for part in self.path[1:]:
                values = pc.struct_field(values, part)
            yield values

    def values(self, file: pq.ParquetFile) -> Iterator[Any]:
        """Yield all values one by one."""
        for values in self.batches(file, 1000):
            yield from values.to_pylist()


def describe_columns(schema: pa.Schema) -> str:
    """Return the names and types of all columns, and of the fields of structs, for an error."""
    names = []
    for field in schema:
        if pa.types.is_struct(field.type):
            names += [f"{field.name}.{each.name} ({each.type})" for each in field.type]
        else:
            names.append(f"{field.name} ({field.type})")
    return ", ".join(names[:20])


def _child(kind: pa.DataType, name: str) -> pa.DataType | None:
    """Return the type of a field of a struct; None if there is none, or several."""
    index = kind.get_field_index(name) if pa.types.is_struct(kind) else -1
    return kind.field(index).type if index >= 0 else None


def _kind(kind: pa.DataType) -> Kind:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "binary"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "integer" if pa.types.is_integer(kind) else "other"
