"""The champion can be moved by hand and back, with a reason that is kept."""

import pytest
from mlflow import MlflowClient

from pipeline.track.manual_promotion import promote_version, roll_back
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.model_registry import register_model

DATASET = "d" * 64


@pytest.fixture
def configure(run_config):
    """A function: settings of tracking -> config."""

    def changed(**track):
        return run_config.model_copy(update={"track": run_config.track.model_copy(update=track)})

    return changed


@pytest.fixture
def three_versions(configure, run, make_checkpoint):
    """Versions 1 to 3, of which 1 and then 2 became the champion, and 3 was refused."""
    for number, value in ((1, 0.3), (2, 0.4), (3, 0.2)):
        metrics = {"segm/AP": value}
        register_model(configure(), make_checkpoint(number), metrics, run.run_id, DATASET)


@pytest.fixture
def aliases(configure, run):
    def read():
        client = MlflowClient(run.uri, registry_uri=run.uri)
        model = client.get_registered_model(configure().track.model_name)
        return {name: str(version) for name, version in model.aliases.items()}

    return read


@pytest.mark.usefixtures("three_versions")
def test_a_promotion_keeps_the_champion_before_as_previous(aliases):
    assert aliases() == {"champion": "2", "previous": "1", "candidate": "3"}


@pytest.mark.usefixtures("three_versions")
def test_a_rollback_and_a_second_one_swap_the_two(configure, aliases):
    moved = roll_back(configure(because="false alarms at night"))
    assert aliases() == {"champion": "1", "previous": "2", "candidate": "3"}
    assert moved.reason == "rolled back from version 2: false alarms at night"
    assert roll_back(configure()).reason == "rolled back from version 1"
    assert aliases() == {"champion": "2", "previous": "1", "candidate": "3"}


@pytest.mark.usefixtures("three_versions")
def test_registering_again_does_not_undo_a_rollback(configure, aliases, run, make_checkpoint):
    roll_back(configure())
    metrics = {"segm/AP": 0.4}
    again = register_model(configure(), make_checkpoint(2), metrics, run.run_id, DATASET)
    assert (again.version, again.promoted) == ("2", False)
    assert "it was rolled back" in again.reason
    assert aliases()["champion"] == "1"
    promote_version(configure(because="fixed the camera"), "2")
    assert aliases()["champion"] == "2"
    assert register_model(configure(), make_checkpoint(2), metrics, run.run_id, DATASET).promoted


@pytest.mark.usefixtures("three_versions")
def test_a_version_is_promoted_by_hand_with_a_reason_that_is_kept(configure, aliases, run):
    with pytest.raises(TrackingError, match="needs a reason"):
        promote_version(configure(), "3")
    promote_version(configure(because="faster"), "3")
    assert aliases() == {"champion": "3", "previous": "2"}
    client = MlflowClient(run.uri, registry_uri=run.uri)
    tags = client.get_model_version(configure().track.model_name, "3").tags
    assert tags["promotion"] == "promoted"
    assert tags["promotion_reason"].startswith("promoted by hand: faster (")


def test_what_is_not_there_is_named(configure, run, make_checkpoint):
    with pytest.raises(TrackingError, match="there is no registered model"):
        roll_back(configure())
    register_model(configure(), make_checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATASET)
    with pytest.raises(TrackingError, match="no alias previous"):
        roll_back(configure())
    with pytest.raises(TrackingError, match="has no version 9"):
        promote_version(configure(because="x"), "9")


def test_a_version_below_the_minimum_is_not_promoted(configure, run, make_checkpoint, aliases):
    config = configure(champion_minimum=0.35)
    low = register_model(config, make_checkpoint(1), {"segm/AP": 0.3}, run.run_id, DATASET)
    assert not low.promoted
    assert low.reason == "segm/AP 0.3000 is below track.champion_minimum 0.35"
    assert register_model(
        config, make_checkpoint(2), {"segm/AP": 0.36}, run.run_id, DATASET
    ).promoted
    assert aliases() == {"champion": "2"}
