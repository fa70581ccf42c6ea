"""Settings are strict and frozen, and an error lists every bad key at once."""

import pickle
from typing import Literal

import pytest
from pydantic import Field, model_validator

from model.config.settings import ConfigError, Fraction, Positive, Settings, check_settings


class Optimizer(Settings):
    """A section."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="Algorithm.")
    momentum: Fraction = 0.9
    milestones: tuple[Positive, ...] = (10, 20)


class Job(Settings):
    """A root."""

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


def problems(tree, cls=Job):
    with pytest.raises(ConfigError) as caught:
        check_settings(cls, tree)
    return caught.value.problems


def test_every_bad_key_is_listed_at_once_with_the_nearest_valid_one():
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
        "name: required",
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


def test_lists_become_tuples_and_integers_become_floats():
    job = check_settings(Job, {"name": "a", "optimizer": {"milestones": [3], "momentum": 1}})
    assert job.optimizer == Optimizer(milestones=(3,), momentum=1.0)


def test_null_disables_a_section():
    assert check_settings(Job, {"name": "a", "fallback": None}).fallback is None


def test_a_constraint_on_several_keys_is_reported_with_its_own_message():
    assert problems({"name": "a", "weights": "a"}) == ("name equals weights",)


def test_the_error_can_be_pickled():
    error = ConfigError(["a: wrong", "b: wrong"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Optimizer().momentum = 0.1


class Workers(Settings):
    """Settings with a value of several types."""

    count: Positive | Literal["auto"] = "auto"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("two", "count: must be a valid integer or 'auto'; got 'two'"),
        (0, "count: must be greater than 0 or 'auto'; got 0"),
        (1.5, "count: must be a valid integer or 'auto'; got 1.5"),
    ],
)
def test_a_value_of_several_types_has_one_line_with_all_of_them(value, problem):
    with pytest.raises(ConfigError) as raised:
        check_settings(Workers, {"count": value})
    assert raised.value.problems == (problem,)
