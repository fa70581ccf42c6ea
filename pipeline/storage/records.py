"""Read records that a job wrote as JSON, and name those that were damaged or edited."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.storage.retries import DamagedRecordError

T = TypeVar("T")


def parse_record(document: Any, kind: type[T], url: str, remedy: str) -> T:
    """Return a JSON document as an instance of a dataclass, with every field checked.

    Args:
        document: plain values, as read from the file.
        kind: the dataclass.
        url: where the document comes from, for the error message.
        remedy: what to do about a damaged file.

    Raises:
        DamagedRecordError: a field is missing, unknown or of the wrong type.
    """
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the document"
        raise DamagedRecordError(
            f"{url} is damaged or was edited ({key}: {first['msg']}); {remedy}"
        ) from None
