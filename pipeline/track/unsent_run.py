"""What MLflow did not take of a run, kept in the output folder until it is sent.

::

    {output}/unsent/RUN/
        metrics.jsonl    metrics of a training (`UnsentMetrics`)
        artifacts/...    files, at their paths in the run
        tags.json        tags
        status.json      how the run ended
        checkpoints.json exists if the kept checkpoints are not recorded as logged models
        damaged-metrics.jsonl  metrics that cannot be read; nothing sends or deletes them

Nothing here raises, except `notes` and `read_note`: what cannot be kept must not end a job that
works.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.output_layout import SWEEP_FOLDER
from pipeline.track.unsent_metrics import DAMAGED_PREFIX, UnsentMetrics

logger = logging.getLogger(__name__)

UNSENT_FOLDER = "unsent"
_METRICS = "metrics.jsonl"
_ARTIFACTS = "artifacts"
TAGS, STATUS, CHECKPOINTS = "tags", "status", "checkpoints"
"""Names of notes."""


class UnsentRun:
    """The folder of one run; it exists only while something waits.

    Args:
        output: output folder of the job.
        run_id: the run.
    """

    def __init__(self, output: str, run_id: str) -> None:
        self.output = output
        self.run_id = run_id
        self.url = storage.join(output, UNSENT_FOLDER, run_id)
        self.metrics_url = storage.join(self.url, _METRICS)
        self._artifacts_url = storage.join(self.url, _ARTIFACTS)

    def metrics(self) -> UnsentMetrics:
        """Return the file of the metrics."""
        return UnsentMetrics(self.metrics_url)

    def keep_text(self, name: str, content: str) -> bool:
        """Keep an artifact, in place of one of the same name; return whether that worked."""
        return self._keep(name, lambda url: storage.write_bytes(url, content.encode()))

    def keep_file(self, name: str, path: Path) -> bool:
        """Keep a copy of a local file as an artifact; return whether that worked."""
        return self._keep(name, functools.partial(storage.upload_file, path))

    def artifacts(self) -> list[str]:
        """Return the names of the kept artifacts; none if that cannot be found out."""
        try:
            files = storage.list_files(self._artifacts_url)
        except OSError as error:
            logger.warning("%s cannot be read now: %s", self._artifacts_url, error)
            return []
        return [file[len(self._artifacts_url) :].strip("/") for file in files]

    @contextmanager
    def artifact(self, name: str) -> Iterator[Path]:
        """Provide a kept artifact as a local file.

        Raises:
            StorageError: it cannot be read.
        """
        with storage.fetch(storage.join(self._artifacts_url, name)) as path:
            yield path

    def drop_artifact(self, name: str) -> None:
        """Delete an artifact that was sent."""
        self._delete(storage.join(self._artifacts_url, name))

    def keep_note(self, name: str, value: Any) -> None:
        """Keep a note (`TAGS`, `STATUS`, `CHECKPOINTS`), in place of an earlier one."""
        try:
            storage.write_json(self._note_url(name), value)
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._note_url(name), error)

    def keep_tags(self, tags: Mapping[str, str]) -> None:
        """Keep tags beside those that are kept already."""
        try:
            kept = self.read_note(TAGS) or {}
        except OSError as error:
            logger.warning("the tags in %s are lost: %s", self._note_url(TAGS), error)
            kept = {}
        self.keep_note(TAGS, {**kept, **tags})

    def notes(self) -> list[str]:
        """Return the names of the notes that are kept.

        Raises:
            StorageError: the folder cannot be read.
        """
        return [
            name for name in (TAGS, STATUS, CHECKPOINTS) if storage.exists(self._note_url(name))
        ]

    def read_note(self, name: str) -> Any:
        """Return a note; None if there is none.

        Raises:
            StorageError: it cannot be read, or it is damaged.
        """
        url = self._note_url(name)
        return storage.read_json(url) if storage.exists(url) else None

    def drop_note(self, name: str) -> None:
        """Delete a note that was sent."""
        self._delete(self._note_url(name))

    def is_empty(self) -> bool:
        """Return whether nothing waits; True if that cannot be found out."""
        try:
            return not any(_is_to_send(file) for file in storage.list_files(self.url))
        except OSError as error:
            logger.warning("%s cannot be read now: %s", self.url, error)
            return True

    def delete_if_empty(self) -> None:
        """Delete the folder if it has no files; only once no process of the run is left."""
        try:
            has_files = bool(storage.list_files(self.url))
        except OSError as error:
            logger.warning("%s cannot be read now: %s", self.url, error)
            return
        if not has_files:
            self._delete(self.url)

    def _keep(self, name: str, write: Callable[[str], None]) -> bool:
        url = storage.join(self._artifacts_url, name)
        try:
            write(url)
        except OSError as error:
            logger.warning("%s cannot be kept in %s: %s", name, url, error)
            return False
        return True

    def _note_url(self, name: str) -> str:
        return storage.join(self.url, f"{name}.json")

    def _delete(self, url: str) -> None:
        try:
            storage.delete(url)
        except OSError as error:
            logger.warning("%s is sent but cannot be deleted: %s", url, error)


def _is_to_send(file: str) -> bool:
    return not file.rpartition("/")[2].startswith(DAMAGED_PREFIX)


def unsent_runs(output: str) -> list[UnsentRun]:
    """Return the runs below an output folder of which something waits, those of trials too.

    Raises:
        StorageError: the folder cannot be read.
    """
    runs = set()
    for folder in (UNSENT_FOLDER, SWEEP_FOLDER):
        for file in storage.list_files(storage.join(output, folder)):
            before, mark, below = file.rpartition(f"/{UNSENT_FOLDER}/")
            if mark and _is_to_send(file):
                runs.add((before, below.partition("/")[0]))
    return [UnsentRun(*each) for each in sorted(runs)]
