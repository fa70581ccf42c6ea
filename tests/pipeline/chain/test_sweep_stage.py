"""A chain with a sweep trains with the values that the sweep found."""

import pytest
from mlflow import MlflowClient

from pipeline.chain.run import run_chain
from pipeline.chain.selection import Selection
from pipeline.config import RunConfig

LR = "train.optimizer.lr"


@pytest.fixture
def config(small_config):
    """A chain whose sweep trains once at a rate of its own, which must then be the best."""
    tree = small_config.model_dump(mode="json")
    tree["chain"] |= {"sweep": True}
    tree["train"] |= {"validate_every": 1, "log_every": 1, "workers": 1}
    tree["sweep"] |= {
        "space": {LR: {"kind": "grid", "values": [0.003]}},
        "searcher": "grid",
        "metric": "train/loss",
        "mode": "min",
        "grace_steps": 1,
    }
    return RunConfig.model_validate(tree)


@pytest.mark.soak
@pytest.mark.ray
def test_the_training_has_the_values_that_the_sweep_found(ray_cluster, config):
    assert config.train.optimizer.lr != 0.003
    records = {each.stage: each for each in run_chain(config, Selection(None, "train"))}
    assert list(records)[-2:] == ["sweep", "train"]
    assert records["sweep"].outcome["best_values"] == {LR: 0.003}
    run = MlflowClient(config.track.uri).get_run(records["train"].outcome["run_id"])
    assert float(run.data.params[LR]) == 0.003
    again = list(run_chain(config, Selection(None, "train")))
    assert all(each.skipped for each in again)
