"""A file that the store refuses keeps back no other, and no old version replaces a newer one."""

import logging
from pathlib import Path

import pytest
import requests

from pipeline.track.artifact_upload import ArtifactUpload
from pipeline.track.attempt import attempt
from pipeline.track.unsent_run import UnsentRun


class Store:
    """A client whose store answers some files with an error."""

    def __init__(self, errors):
        self.errors, self.contents, self.asked = errors, {}, []

    def log_artifact(self, run_id, path, folder):
        self.take(Path(path).name, Path(path).read_text())

    def log_text(self, run_id, text, name):
        self.take(name, text)

    def take(self, name, content):
        self.asked.append(name)
        if name in self.errors:
            raise self.errors[name]
        self.contents[name] = content


@pytest.fixture
def unsent(tmp_path):
    return UnsentRun(str(tmp_path), "run")


def test_a_file_that_the_store_refuses_keeps_back_no_other(unsent, caplog):
    caplog.set_level(logging.WARNING)
    for name in ("1.md", "2.bin", "3.md"):
        unsent.keep_text(name, name)
    store = Store({"2.bin": requests.HTTPError("413 Request Entity Too Large")})
    upload = ArtifactUpload(store, "run", unsent)
    assert upload.send_kept() == 1
    assert store.contents == {"1.md": "1.md", "3.md": "3.md"}
    assert unsent.artifacts() == ["2.bin"]
    assert upload.kept_because == "2.bin: HTTPError: 413 Request Entity Too Large"
    assert upload.failure is None  # the store takes other files
    [message] = caplog.messages
    assert "1 of 3 kept artifacts of MLflow run run cannot be sent (2.bin" in message
    store.errors = {}
    assert upload.send_kept() == 0
    assert upload.kept_because is None and unsent.artifacts() == []


def test_a_store_that_does_not_answer_is_asked_once(unsent):
    for name in ("1.md", "2.md", "3.md"):
        unsent.keep_text(name, name)
    store = Store({"2.md": requests.ConnectionError("connection refused")})
    assert ArtifactUpload(store, "run", unsent).send_kept() == 2
    assert store.asked == ["1.md", "2.md"]
    assert unsent.artifacts() == ["2.md", "3.md"]


def test_a_version_that_an_earlier_process_has_kept_does_not_replace_a_newer_one(unsent):
    unsent.keep_text("report.md", "old")
    store = Store({})
    upload = ArtifactUpload(store, "run", unsent)  # of a process that knows of no failure
    upload.text("new", "report.md")
    assert upload.send_kept() == 0
    assert store.contents == {"report.md": "new"}


def test_a_lost_connection_is_told_from_a_refusal():
    def lose():
        try:
            raise requests.ConnectionError("refused")
        except requests.ConnectionError as error:
            raise ValueError("API request failed") from error

    def refuse():
        raise requests.HTTPError("413")

    lost, refused = attempt(lose, 10), attempt(refuse, 10)
    assert lost.is_lost and not refused.is_lost
    assert str(lost) == "ValueError: API request failed"
    assert attempt(lambda: None, 10) is None
