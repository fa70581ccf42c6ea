import pytest
import torch

from pipeline.config import RunConfig
from pipeline.ingest.splits import prepare_split
from pipeline.train.driver import run_training
from tests.pipeline.train.driver_runs import make_config


@pytest.fixture
def uninitialized_memory_is_nan():
    """Let torch fill new uninitialized tensors with NaN, so that reading one shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def shards(ray_cluster, tmp_path_factory):
    """URLs of shards of 24 + 6 drawn images."""
    folder = tmp_path_factory.mktemp("shapes")
    config = RunConfig.model_validate(
        {
            "output": str(folder),
            "data": {
                "shapes": {"images": 24, "val_images": 6, "side": 64, "max_objects": 3},
                "rows_per_shard": 12,
                "rows_per_group": 4,
            },
        }
    )
    prepare_split(config, "train")
    prepare_split(config, "val")
    return {"train_shards": f"{folder}/shards/train", "val_shards": f"{folder}/shards/val"}


@pytest.fixture(scope="session")
def finished(shards, tmp_path_factory):
    """An uninterrupted training of two workers."""
    config = make_config(tmp_path_factory.mktemp("finished"), shards)
    return config, run_training(config)
