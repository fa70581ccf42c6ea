"""Locations are joined and resolved without touching the file system."""

from pathlib import Path

from pipeline.storage.urls import absolute, is_relative, join, local_path


def test_join_puts_one_slash_between_parts():
    assert join("s3://b/k/", "/x/", "y.z") == "s3://b/k/x/y.z"


def test_only_a_path_without_root_scheme_or_home_is_relative():
    assert is_relative("a/b") and not is_relative("s3://a") and not is_relative("~/a")


def test_file_urls_are_local_and_other_schemes_are_not():
    assert str(local_path("file:///a%20b/c")) == "/a b/c"
    assert local_path("s3://b/k") is None


def test_absolute_resolves_local_paths_and_keeps_other_schemes():
    assert absolute("s3://b/k", Path("/x")) == "s3://b/k"
    assert absolute("file:///a%20b", Path("/x")) == "/a b"
    assert absolute("a/../b", Path("/x")) == "/x/b"
    assert absolute("~/a", Path("/x")) == str(Path.home() / "a")


def test_a_name_that_begins_with_a_tilde_is_no_home():
    assert is_relative("~thumb.jpg") and str(local_path("~thumb.jpg")) == "~thumb.jpg"
    assert absolute("~thumb.jpg", Path("/x")) == "/x/~thumb.jpg"
    assert absolute("~", Path("/x")) == str(Path.home())
