"""A damaged or edited record is named with the field and the way out."""

from dataclasses import dataclass, field

import pytest

from pipeline.storage import DamagedRecordError
from pipeline.storage.records import parse_record


@dataclass(frozen=True)
class Record:
    name: str
    steps: int
    values: dict[str, float] = field(default_factory=dict)


def parse(document):
    return parse_record(document, Record, "run.json", "delete it")


def test_a_record_is_read_and_unknown_fields_are_ignored():
    document = {"name": "a", "steps": 3, "values": {"x": 1}, "of a later version": 1}
    assert parse(document) == Record("a", 3, {"x": 1.0})


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ({"name": "a"}, "steps"),
        ({"name": "a", "steps": "many"}, "steps"),
        ({"name": None, "steps": 3}, "name"),
        ({"name": "a", "steps": 3, "values": {"x": "high"}}, "values.x"),
        ({"name": "a", "steps": 3, "values": []}, "values"),
        ([], "the document"),
        (None, "the document"),
        ("text", "the document"),
    ],
)
def test_a_damaged_record_is_named_with_the_field_and_the_remedy(document, key):
    with pytest.raises(DamagedRecordError) as raised:
        parse(document)
    assert str(raised.value).startswith(f"run.json is damaged or was edited ({key}: ")
    assert str(raised.value).endswith("; delete it")
