"""The reference has one row per key, with its type and default."""

from model.config import ModelConfig
from model.config.settings_table import list_settings, settings_table
from tests.model.config.test_settings import Job


def test_every_key_is_listed_once_with_type_and_default():
    rows = {row.key: row for row in list_settings(Job)}
    assert list(rows) == [
        "name",
        "steps",
        "weights",
        "optimizer.kind",
        "optimizer.momentum",
        "optimizer.milestones",
        "fallback",
        "fallback.kind",
        "fallback.momentum",
        "fallback.milestones",
        "by_name",
        "by_name.<key>.kind",
        "by_name.<key>.momentum",
        "by_name.<key>.milestones",
    ]
    assert rows["name"].default == "required"
    assert (rows["steps"].type, rows["steps"].default) == ("integer > 0", "5")
    assert rows["optimizer.kind"].type == '"sgd", "adamw"'
    assert rows["optimizer.momentum"].type == "number in [0, 1]"
    assert rows["weights"].type == "string or null"
    assert rows["optimizer.milestones"].type == "list of integers > 0"


def test_every_row_of_the_table_has_four_cells():
    lines = settings_table(ModelConfig).splitlines()
    assert len(lines) == len(list_settings(ModelConfig)) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}
