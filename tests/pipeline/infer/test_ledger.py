"""A chunk counts as finished only if its output is complete and would be made the same again."""

from dataclasses import replace

import pytest

from pipeline import storage
from pipeline.infer.inputs import InputChunk
from pipeline.infer.ledger import (
    LedgerEntry,
    chunk_key,
    finished_entries,
    output_url,
    remove_stale,
    write_entry,
)

CHUNK = InputChunk("part-00000", 4, "content", "/images", ("a.jpg",))
KEY = chunk_key(CHUNK, "model", 0.05)


@pytest.fixture
def folder(tmp_path):
    """A folder with one finished chunk, whose output has 9 bytes."""
    storage.write_bytes(output_url(str(tmp_path), "part-00000"), b"9 letters")
    write_entry(str(tmp_path), LedgerEntry("part-00000", KEY, 4, 0, 7, 9, "models:/m/1"))
    return str(tmp_path)


def test_the_entry_of_a_finished_chunk_has_its_counts(folder):
    assert finished_entries(folder, {"part-00000": KEY})["part-00000"].objects == 7


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
    assert finished_entries(folder, {"part-00000": key}) == {}


def test_the_key_does_not_depend_on_the_location_of_the_input():
    assert chunk_key(replace(CHUNK, folder_url="s3://elsewhere"), "model", 0.05) == KEY


def test_a_chunk_with_a_truncated_or_missing_output_is_not_finished(folder):
    storage.write_bytes(output_url(folder, "part-00000"), b"9 lett")
    assert finished_entries(folder, {"part-00000": KEY}) == {}
    storage.delete(output_url(folder, "part-00000"))
    assert finished_entries(folder, {"part-00000": KEY}) == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "part-00000"}'])
def test_a_chunk_with_a_damaged_entry_is_not_finished(folder, content):
    storage.write_bytes(storage.join(folder, "_done", "part-00000.json"), content)
    assert finished_entries(folder, {"part-00000": KEY}) == {}


def test_only_recorded_outputs_whose_input_is_missing_are_removed(folder):
    storage.write_bytes(storage.join(folder, "part-00007.parquet"), b"not recorded")
    assert remove_stale(folder, ["part-00000"]) == []
    assert remove_stale(folder, ["part-00001"]) == ["part-00000"]
    assert [url.rpartition("/")[2] for url in storage.list_files(folder)] == ["part-00007.parquet"]
