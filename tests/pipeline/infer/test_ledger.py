"""A piece is finished only if its output stands in full and would come out the same."""

from dataclasses import replace

import pytest

from pipeline import storage
from pipeline.infer.inputs import InputPiece
from pipeline.infer.ledger import (
    LedgerEntry,
    finished_entries,
    output_url,
    piece_key,
    remove_stale,
    write_entry,
)

PIECE = InputPiece("part-00000", 4, "content", "/images", ("a.jpg",))
KEY = piece_key(PIECE, "model", 0.05)


@pytest.fixture
def folder(tmp_path):
    """A folder with one finished piece of 9 bytes."""
    storage.write_bytes(output_url(str(tmp_path), "part-00000"), b"9 letters")
    write_entry(str(tmp_path), LedgerEntry("part-00000", KEY, 4, 0, 7, 9, "models:/m/1"))
    return str(tmp_path)


def test_a_finished_piece_is_found_with_its_counts(folder):
    assert finished_entries(folder, {"part-00000": KEY})["part-00000"].objects == 7


@pytest.mark.parametrize(
    "key",
    [
        piece_key(replace(PIECE, identity="other content"), "model", 0.05),
        piece_key(replace(PIECE, images=5), "model", 0.05),
        piece_key(PIECE, "another model", 0.05),
        piece_key(PIECE, "model", 0.3),
    ],
    ids=["content", "count", "model", "threshold"],
)
def test_what_would_come_out_otherwise_is_not_finished(folder, key):
    assert finished_entries(folder, {"part-00000": key}) == {}


def test_where_the_input_lies_does_not_matter():
    assert piece_key(replace(PIECE, folder="s3://elsewhere"), "model", 0.05) == KEY


def test_an_output_that_is_short_or_gone_is_not_finished(folder):
    storage.write_bytes(output_url(folder, "part-00000"), b"9 lett")
    assert finished_entries(folder, {"part-00000": KEY}) == {}
    storage.delete(output_url(folder, "part-00000"))
    assert finished_entries(folder, {"part-00000": KEY}) == {}


@pytest.mark.parametrize("content", [b"", b"{", b'{"name": "part-00000"}'])
def test_a_damaged_entry_is_not_finished(folder, content):
    storage.write_bytes(storage.join(folder, "_done", "part-00000.json"), content)
    assert finished_entries(folder, {"part-00000": KEY}) == {}


def test_outputs_whose_input_is_gone_are_removed_and_nothing_else(folder):
    storage.write_bytes(storage.join(folder, "part-00007.parquet"), b"not recorded, not ours")
    assert remove_stale(folder, ["part-00000"]) == []
    assert remove_stale(folder, ["part-00001"]) == ["part-00000"]
    assert [url.rpartition("/")[2] for url in storage.list_files(folder)] == ["part-00007.parquet"]
