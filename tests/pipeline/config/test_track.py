"""Names that MLflow would refuse after the training are refused when the config is loaded."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_experiment_name, _validate_model_name

from model.config.settings import ConfigError, check_settings
from pipeline.config import TrackConfig

REFUSED = ["team/parts", "a:b", "", " ", ".", "..", "/", "a/../b"]
ACCEPTED = ["maskrcnn-ray", "team-parts", "catalog.schema.parts", "Teile über", "v1.2", "a b"]


def accepts(**settings):
    try:
        check_settings(TrackConfig, settings)
    except ConfigError:
        return False
    return True


def mlflow_accepts(validate, name):
    try:
        validate(name)
    except MlflowException:
        return False
    return True


@pytest.mark.parametrize("name", [*REFUSED, *ACCEPTED])
def test_a_model_name_is_accepted_as_by_mlflow(name):
    assert accepts(model_name=name) == mlflow_accepts(_validate_model_name, name)
    assert accepts(model_name=name) == (name in ACCEPTED)


@pytest.mark.parametrize("name", ["models@home", " padded ", "two\nlines", "x" * 257])
def test_a_model_name_that_no_source_can_refer_to_is_refused(name):
    assert not accepts(model_name=name)


def test_the_error_of_a_model_name_says_what_to_use():
    with pytest.raises(ConfigError, match=r"model_name: the registry takes no .* team-parts for"):
        check_settings(TrackConfig, {"model_name": "team/parts"})


@pytest.mark.parametrize("name", ["", " ", "x" * 501, "team/parts", "a:b", "x" * 500])
def test_an_experiment_name_is_accepted_as_by_mlflow(name):
    expected = mlflow_accepts(_validate_experiment_name, name) and bool(name.strip())
    assert accepts(experiment=name) == expected
