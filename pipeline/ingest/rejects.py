"""Records that ingest leaves out or corrects, and the error that says why."""

from dataclasses import dataclass
from typing import Literal

IMAGE_QUARANTINED = "image quarantined"
"""The reason of the annotations of a quarantined image."""


@dataclass(frozen=True)
class Reject:
    """A line of quarantine.jsonl: a record that was left out, or kept if ``corrected``.

    ``reason`` is one of a few fixed phrases, so that it can be counted; ``detail`` is about this
    record. ``source_id`` is the record's own id in the annotations, as JSON, if ours differs.
    """

    record: Literal["image", "annotation"]
    file: str | None
    image_id: int | None
    annotation_id: int | None
    reason: str
    detail: str
    corrected: bool = False
    source_id: str | None = None


class InvalidRecordError(Exception):
    """An image or annotation must be quarantined; ``reason`` and ``detail`` as in `Reject`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
