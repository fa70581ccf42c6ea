"""A chunk counts as finished only if its output is complete and would be made the same again."""

from dataclasses import replace

import pytest

from pipeline import storage
from pipeline.infer.inputs import InputChunk
from pipeline.infer.ledger import LedgerEntry, chunk_key, output_url, read_entries, write_entry
from pipeline.infer.output_cleanup import clean_output
from pipeline.infer.plan import plan_chunks

CHUNK = InputChunk("part-00000", 4, "content", "/images", ("a.parquet",))
KEY = chunk_key(CHUNK, "model", 0.05)


def finished(folder, key, chunk=CHUNK):
    """Return the finished chunks of a job by name."""
    plan = plan_chunks([chunk], folder, lambda _: key)
    assert plan.chunks == 1 - len(plan.finished)
    return {entry.name: entry for entry in plan.finished}


@pytest.fixture
def folder(tmp_path):
    """A folder with one finished chunk, whose output has 9 bytes."""
    storage.write_bytes(output_url(str(tmp_path), "part-00000"), b"9 letters")
    write_entry(str(tmp_path), LedgerEntry("part-00000", KEY, 4, 0, 7, 9, "models:/m/1"))
    return str(tmp_path)


def test_the_entry_of_a_finished_chunk_has_its_counts(folder):
    assert finished(folder, KEY)["part-00000"].objects == 7


@pytest.mark.parametrize(
    "key",
    [
        chunk_key(replace(CHUNK, identity="other content"), "model", 0.05),
        chunk_key(replace(CHUNK, images=5), "model", 0.05),
        chunk_key(CHUNK, "another model", 0.05),
        chunk_key(CHUNK, "model", 0.3),
        chunk_key(CHUNK, "model", 0.05, "bf16"),
    ],
    ids=["content", "count", "model", "threshold", "precision"],
)
def test_a_chunk_whose_output_would_differ_is_not_finished(folder, key):
    assert finished(folder, key) == {}


def test_the_key_does_not_depend_on_the_location_of_the_input():
    assert chunk_key(replace(CHUNK, folder_url="s3://elsewhere"), "model", 0.05) == KEY


def test_a_chunk_with_a_truncated_or_missing_output_is_not_finished(folder):
    storage.write_bytes(output_url(folder, "part-00000"), b"9 lett")
    assert finished(folder, KEY) == {}
    storage.delete(output_url(folder, "part-00000"))
    assert finished(folder, KEY) == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "part-00000"}', b"3"])
def test_a_chunk_with_a_damaged_entry_is_not_finished(folder, content, caplog):
    storage.write_bytes(storage.join(folder, "_done", "part-00000.json"), content)
    assert finished(folder, KEY) == {}
    clean_output(plan_chunks([CHUNK], folder, lambda _: KEY), folder, None, lambda _: KEY)
    assert "part-00000.json" in caplog.text


def test_only_recorded_outputs_whose_input_is_missing_are_removed(folder):
    storage.write_bytes(storage.join(folder, "part-00007.parquet"), b"not recorded")
    for chunk, kept in [(CHUNK, 3), (replace(CHUNK, name="part-00001"), 1)]:
        plan = plan_chunks([chunk], folder, lambda _: KEY)
        clean_output(plan, folder, None, lambda _: KEY)
        assert len(storage.list_files(folder)) == kept
    assert [url.rpartition("/")[2] for url in storage.list_files(folder)] == ["part-00007.parquet"]


def test_an_entry_says_which_versions_of_which_files_were_read(tmp_path):
    entry = LedgerEntry(
        *("part-00000", KEY, 2, 0, 7, 9, "models:/m/1"),
        files=("a b.jpg", "ü.jpg"),
        versions=('"etag"', "12 3456"),
        image_ids=(4, 6),
        id_range=(4, 8),
    )
    write_entry(str(tmp_path), entry)
    assert list(read_entries(str(tmp_path), ["part-00000", "x"])) == [
        ("part-00000", entry),
        ("x", None),
    ]
    chunk = entry.chunk("/images", None)
    assert (chunk.files, chunk.image_ids, chunk.images) == (entry.files, (4, 6), 2)
