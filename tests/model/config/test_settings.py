"""Laws of settings: composition, overrides, and errors that name everything at once."""

import pickle
from typing import Literal

import pytest
from pydantic import Field, model_validator

from model.config import ModelConfig
from model.config.settings import (
    ConfigError,
    Fraction,
    Positive,
    Settings,
    apply_overrides,
    check_settings,
    compose_yaml,
    describe_settings,
    settings_table,
)


class Optimizer(Settings):
    """How a step is taken."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="Rule.")
    momentum: Fraction = 0.9
    milestones: tuple[Positive, ...] = (10, 20)


class Job(Settings):
    """A job."""

    name: str = Field(description="Its name.")
    steps: Positive = 5
    weights: str | None = None
    optimizer: Optimizer = Optimizer()
    fallback: Optimizer | None = Optimizer()
    by_name: dict[str, Optimizer] = Field(default_factory=dict, description="More of them.")

    @model_validator(mode="after")
    def _name_differs(self) -> "Job":
        if self.name == self.weights:
            raise ValueError("name equals weights")
        return self


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def problems(tree, cls=Job):
    with pytest.raises(ConfigError) as caught:
        check_settings(cls, tree)
    return caught.value.problems


def test_a_file_is_laid_over_its_bases_key_by_key(tmp_path):
    write(
        tmp_path,
        root="a: {x: 1, y: [1, 2]}\nb: {z: 1}",
        other="a: {y: [3]}\nb: null",
        top="base: [root.yaml, other.yaml]\na: {w: 1e-4}",
    )
    assert compose_yaml(tmp_path / "top.yaml") == {"a": {"x": 1, "y": [3], "w": 1e-4}, "b": None}


def test_bases_are_found_beside_the_file_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(tmp_path, root="a: 1")
    write(tmp_path / "deep", top="base: ../root.yaml\nb: 2")
    monkeypatch.chdir("/")
    assert compose_yaml(tmp_path / "deep" / "top.yaml") == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"top": "base: top.yaml"}, "circle"),
        ({"top": "base: b.yaml", "b": "base: top.yaml"}, "circle: .*top.yaml -> .*b.yaml -> .*top"),
        ({"top": "base: gone.yaml"}, r"cannot read .*gone.yaml \(base of .*top.yaml\)"),
        ({"top": "a: [1"}, "not valid YAML"),
        ({"top": "a: 1\na: 2"}, "'a' is given twice"),
        ({"top": "- 1"}, "must hold a mapping"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, files, complaint):
    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=complaint):
        compose_yaml(tmp_path / "top.yaml")


def test_overrides_set_values_read_as_yaml_and_leave_the_tree_alone():
    tree = {"a": {"b": 1, "c": 2}, "n": None}
    overrides = ["a.b=1e-3", "a.d=[x, 2]", "n.m=null", "u=s3://bucket/a=b", "v="]
    assert apply_overrides(tree, overrides) == {
        "a": {"b": 1e-3, "c": 2, "d": ["x", 2]},
        "n": {"m": None},
        "u": "s3://bucket/a=b",
        "v": None,
    }
    assert tree == {"a": {"b": 1, "c": 2}, "n": None}


def test_all_bad_overrides_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"a": 1}, ["a.b=1", "no_value", "=1", "c=[1"])
    text = str(caught.value)
    assert text.startswith("4 settings are wrong:")
    for part in ("a.b: a is the plain value 1", "'no_value'", "'=1'", "c: '[1'"):
        assert part in text


def test_every_bad_key_is_named_at_once_with_the_nearest_valid_one():
    bad = problems(
        {
            "steps": 0,
            "optimzer": {"kind": "sgd"},
            "momentum": 0.5,
            "optimizer": {"kind": "sdg", "momentum": 2, "milestons": [1]},
            "by_name": {"x": {"kin": "sgd"}},
            "qqqq": 1,
        }
    )
    assert set(bad) == {
        "name: must be given",
        "steps: must be greater than 0; got 0",
        "optimzer: unknown key; did you mean optimizer?",
        "momentum: unknown key; did you mean optimizer.momentum?",
        "optimizer.kind: must be 'sgd' or 'adamw'; got 'sdg'",
        "optimizer.momentum: must be less than or equal to 1; got 2",
        "optimizer.milestons: unknown key; did you mean optimizer.milestones?",
        "by_name.x.kin: unknown key; did you mean by_name.x.kind?",
        "qqqq: unknown key",
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", "5"), ("steps", 5.5), ("steps", True), ("name", 3), ("name", None)],
)
def test_types_are_strict(key, value):
    [problem] = problems({"name": "a", key: value})
    assert problem.startswith(f"{key}: must be a valid")


def test_lists_become_tuples_and_whole_numbers_fractions():
    job = check_settings(Job, {"name": "a", "optimizer": {"milestones": [3], "momentum": 1}})
    assert job.optimizer == Optimizer(milestones=(3,), momentum=1.0)


def test_null_switches_a_branch_off():
    assert check_settings(Job, {"name": "a", "fallback": None}).fallback is None


def test_a_rule_over_several_keys_is_told_in_its_own_words():
    assert problems({"name": "a", "weights": "a"}) == ("name equals weights",)


def test_the_error_survives_a_process_border():
    error = ConfigError(["a: wrong", "b: wrong"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_every_leaf_is_described_once_with_type_and_default():
    rows = {row.key: row for row in describe_settings(Job)}
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
    assert rows["weights"].type == "text or null"
    assert rows["optimizer.milestones"].type == "list of integer > 0"


def test_every_row_of_the_table_has_four_cells():
    lines = settings_table(ModelConfig).splitlines()
    assert len(lines) == len(describe_settings(ModelConfig)) + 2
    assert {line.replace("\\|", "").count("|") for line in lines} == {5}


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Optimizer().momentum = 0.1
