"""Rows of Parquet files are images, whatever the columns are called and however they are stored."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.infer.inputs import read_images
from pipeline.infer.sources import encoded_column
from pipeline.infer.sources.parquet_files import ParquetFiles
from tests.pipeline.infer.folder_jobs import KilledError, plan, read_outputs, run_job


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def base(request, tmp_path):
    return str(tmp_path) if request.param == "local" else request.getfixturevalue("s3")("parquet")


def write(url, table, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(table), sink, **options)
    storage.write_bytes(url, sink.getvalue().to_pybytes())


def numbers(begin, end):
    return [str(n).encode() for n in range(begin, end)]


def by_id(output):
    rows = read_outputs(output)
    found = {row.source_image_id or row.image_id: row.labels for row in rows}
    assert len(found) == len(rows)
    return found


@pytest.mark.parametrize("rows_per_group", [2, 5, 100])
def test_new_files_are_predicted_on_and_those_written_again_as_a_whole(base, rows_per_group):
    folder, output = f"{base}/in", f"{base}/in/out"

    def source():
        return ParquetFiles(folder, "image", "key", output)

    options = {"row_group_size": rows_per_group}
    write(f"{folder}/b.parquet", {"image": numbers(0, 7), "key": list(range(7))}, **options)
    write(f"{folder}/c/d.parquet", {"key": range(10, 14), "image": numbers(10, 14)}, **options)
    storage.write_bytes(f"{folder}/notes.txt", b"")
    assert len(run_job(source, output, images_per_chunk=3)) == 11
    assert by_id(output) == {n: [n] for n in (*range(7), *range(10, 14))}
    assert run_job(source, output, images_per_chunk=3) == []

    write(f"{folder}/a.parquet", {"image": numbers(20, 22), "key": [20, 21]}, **options)
    with pytest.raises(KilledError):
        run_job(source, output, images_per_chunk=1, kill_at=1)
    new = run_job(source, output, images_per_chunk=3)
    assert new == ["a.parquet[0].image", "a.parquet[1].image"]
    assert len(by_id(output)) == 13

    # One row is deleted, one has another image, one moves.
    write(f"{folder}/b.parquet", {"image": numbers(1, 6), "key": [1, 2, 3, 5, 4]}, **options)
    assert len(run_job(source, output, images_per_chunk=4)) == 5
    expected = {1: [1], 2: [2], 3: [3], 5: [4], 4: [5], 20: [20], 21: [21]}
    assert by_id(output) == expected | {n: [n] for n in range(10, 14)}
    again = plan(source, output)
    assert again.chunks == 0
    assert set(again.skipped_files) == {"(in the output folder)", ".txt"}


def test_fields_of_structs_and_dictionaries_are_columns_and_other_columns_other_images(base):
    url, output = f"{base}/a.parquet", f"{base}/out"
    struct = [{"bytes": content, "path": "x"} for content in numbers(0, 4)]
    other = pa.array(["5.jpg", "6.jpg", "6.jpg", None]).dictionary_encode()
    write(url, {"image": struct, "thumb": numbers(10, 14), "file": other})
    storage.write_bytes(f"{base}/5.jpg", b"5")
    run_job(lambda: ParquetFiles(url, "image.bytes"), output)
    assert {row.file_name: row.labels for row in read_outputs(output)} == {
        f"a.parquet[{n}].image.bytes": [n] for n in range(4)
    }
    assert len(run_job(lambda: ParquetFiles(url, "thumb"), output)) == 4
    assert [row.labels for row in read_outputs(output)] == [[n] for n in range(10, 14)]
    source = ParquetFiles(url, "file")
    run_job(lambda: source, output)
    rows = {row.file_name: (row.labels, row.error) for row in read_outputs(output)}
    assert rows.pop("5.jpg") == ([5], None)
    assert "no such file" in rows.pop("6.jpg")[1]
    assert rows == {"a.parquet[3].file": ([], "'a.parquet[3].file' names no file")}
    assert source.skipped == {"(listed twice)": 1}


def test_a_row_without_an_image_and_a_damaged_row_group_are_failed_rows(base):
    url, output = f"{base}/a.parquet", f"{base}/out"
    rng = np.random.default_rng(0)
    images = []
    for _ in range(12):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        images.append(buffer.getvalue())
    images[1] = None
    write(url, {"image": images}, row_group_size=4, compression="zstd", use_dictionary=False)
    content = storage.read_bytes(url)
    part = pq.ParquetFile(pa.BufferReader(content)).metadata.row_group(1).column(0)
    page = part.data_page_offset
    storage.write_bytes(url, content[:page] + b"\xff" * 50 + content[page + 50 :])
    for _ in range(2):
        encoded_column._open_cells.cache_clear()
        [chunk] = plan(lambda: ParquetFiles(url, "image"), output, 99).unfinished()
        errors = [image.error for image in read_images(chunk)]
        assert [error is None for error in errors] == [
            n in (0, *range(2, 4), *range(8, 12)) for n in range(12)
        ]
        assert "row 1 has no image" in errors[1]
        assert all("row group 1 is damaged" in error for error in errors[4:8])
        assert len(set(errors[4:8])) == 1


def test_of_a_row_group_with_a_damaged_page_the_rows_before_it_can_be_read(tmp_path):
    """In whatever order the rows are asked for, and by however many processes."""
    url = str(tmp_path / "a.parquet")
    rng = np.random.default_rng(0)
    images = [rng.bytes(1000) for _ in range(96)]
    options = {"data_page_size": 1000, "write_batch_size": 16, "use_dictionary": False}
    write(url, {"image": images}, compression="none", **options)
    content = storage.read_bytes(url)
    at = content.index(images[48]) - 40  # the header of its page
    storage.write_bytes(url, content[:at] + b"\xff" * 30 + content[at + 30 :])
    found = []
    for rows in (range(96), range(95, -1, -1), range(40, 96), (60, 47, 10, 48)):
        encoded_column._open_cells.cache_clear()
        [chunk] = plan(lambda: ParquetFiles(url, "image"), tmp_path / "out", 99).unfinished()
        reader, asked = chunk.reader, [n in rows for n in range(96)]
        read = list(reader(chunk.only(asked)))
        if isinstance(rows, tuple):
            cells = encoded_column._open_cells(url, chunk.versions[0], "image")
            with pytest.raises(encoded_column.DamagedCellError, match="row group 0 is damaged"):
                cells.read(60)
            assert cells.read(10) == images[10]
        found.append({image.image_id: image.error is None for image in read})
    readable = [n for n, is_read in found[0].items() if is_read]
    assert readable == list(range(len(readable)))
    assert 16 <= len(readable) <= 48
    assert all(each.items() <= found[0].items() for each in found)


def test_a_file_that_changes_during_the_job_stops_it(tmp_path):
    url = str(tmp_path / "a.parquet")
    write(url, {"image": numbers(0, 4)})
    [chunk] = plan(lambda: ParquetFiles(url, "image"), tmp_path / "out", 99).unfinished()
    write(url, {"image": numbers(10, 15)})
    with pytest.raises(storage.StorageError, match=r"a.parquet changed while the job was running"):
        list(read_images(chunk))
    storage.delete(url)
    assert all("no such file" in image.error for image in read_images(chunk))


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (
            ("photo",),
            ConfigError,
            r"infer.image_column: .* no column photo; it has image \(bin",
        ),
        (("n",), ConfigError, r"infer.image_column: must be a column of binary or text .* n of"),
        (("image", "nr"), ConfigError, r"infer.id_column: .* no column nr"),
        (("image", "image"), ConfigError, r"infer.id_column: must be a column of integer or text"),
        (("s.x", "n"), ConfigError, r"no column s.x; .* s.bytes \(binary\)"),
        (("image", "key"), storage.StorageError, r"1 values of key are there more than once.* 'a'"),
        (("image", "gaps"), storage.StorageError, r"1 rows have no gaps, the id"),
    ],
)
def test_wrong_columns_are_named_with_those_that_are_there(tmp_path, columns, error, message):
    url = str(tmp_path / "a.parquet")
    table = {
        "image": numbers(0, 3),
        "n": [1, 2, 3],
        "s": [{"bytes": b"1"}] * 3,
        "key": ["a", "b", "a"],
        "gaps": ["a", None, "b"],
    }
    write(url, table)
    with pytest.raises(error, match=message):
        list(ParquetFiles(url, *columns))


def test_what_is_no_parquet_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no Parquet")
    with pytest.raises(storage.StorageError, match=r"a.parquet: not a complete Parquet file"):
        ParquetFiles(str(tmp_path), "image")
    with pytest.raises(storage.MissingFileError, match="no Parquet file is there"):
        ParquetFiles(str(tmp_path / "none"), "image")
    write(str(tmp_path / "a.parquet"), {"image": pa.array([], pa.binary())})
    with pytest.raises(storage.MissingFileError, match="the Parquet files have no rows"):
        plan(lambda: ParquetFiles(str(tmp_path), "image"), tmp_path / "out")
    write(str(tmp_path / "b.parquet"), {"image": ["1.jpg"]})
    with pytest.raises(ConfigError, match="image is binary in some files, text in others"):
        ParquetFiles(str(tmp_path), "image")


def test_ids_of_text_are_kept_as_json(tmp_path):
    url, output = str(tmp_path / "a.parquet"), tmp_path / "out"
    write(url, {"image": numbers(0, 3), "key": ["7", "x", "ü"]})
    run_job(lambda: ParquetFiles(url, "image", "key"), output)
    rows = read_outputs(output)
    assert [json.loads(row.source_image_id) for row in rows] == ["7", "x", "ü"]
    assert rows[0].image_id == 7


def test_a_folder_may_be_called_like_a_parquet_file(base):
    """As Spark and Dask write tables."""
    url, output = f"{base}/table.parquet", f"{base}/out"
    write(f"{url}/part-00000.parquet", {"image": numbers(0, 2)})
    write(f"{url}/part-00001.parquet", {"image": numbers(2, 4)})
    storage.write_bytes(f"{url}/_SUCCESS", b"")
    run_job(lambda: ParquetFiles(url, "image"), output)
    rows = read_outputs(output)
    assert [(row.labels, row.error) for row in rows] == [([n], None) for n in range(4)]
    assert rows[0].file_name == "part-00000.parquet[0].image"


def test_a_store_that_fails_is_no_damage_of_a_column_with_a_dot(tmp_path):
    """As WebDataset calls them: image.jpg is the whole name, not a field of a struct."""
    url = str(tmp_path / "a.parquet")
    write(url, {"image.jpg": [bytes(1000)] * 40}, compression="none", use_dictionary=False)
    content = storage.read_bytes(url)
    page = pq.ParquetFile(url).metadata.row_group(0).column(0).data_page_offset
    storage.write_bytes(url, content[:page] + b"\xff" * 50 + content[page + 50 :])
    [chunk] = plan(lambda: ParquetFiles(url, "image.jpg"), tmp_path / "out", 99).unfinished()
    encoded_column._open_cells.cache_clear()
    cells = encoded_column._open_cells(url, chunk.versions[0], "image.jpg")
    storage.delete(url)  # nothing can be read again, so nothing can be told
    with pytest.raises(storage.StorageError, match=r"a.parquet: no such file"):
        cells.read(0)


def test_an_output_never_replaces_a_file_of_others(tmp_path):
    """Not even where a job is pointed at a folder with tables in it."""
    output = tmp_path / "out"
    tables = [str(output / f"part-0000{n}.parquet") for n in (0, 2)]
    for url in tables:
        write(url, {"image": numbers(0, 3)})
    before = [storage.read_bytes(url) for url in tables]
    images = tmp_path / "images"
    for n in range(6):
        storage.write_bytes(str(images / f"{n}.jpg"), str(n).encode())
    assert len(run_job(images, output, images_per_chunk=2)) == 6
    names = sorted(path.name for path in output.glob("*.parquet"))
    assert names == [f"part-0000{n}.parquet" for n in range(5)]
    assert [storage.read_bytes(url) for url in tables] == before
    assert run_job(images, output, images_per_chunk=2) == []
