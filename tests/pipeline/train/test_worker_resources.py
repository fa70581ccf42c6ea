"""Workers get GPUs if there are enough, and the allocator settings that training needs."""

import logging
import os

import pytest
from ray.train import RunConfig as RayRunConfig
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.cluster import ClusterResources, Machine
from pipeline.config import RunConfig
from pipeline.train.failures import TrainingError
from pipeline.train.worker_resources import scaling_config, worker_environment


def scaling(gpus, machines=2, **train):
    """Return the scaling on several machines, to which Ray may add others, or on one."""
    train = {"workers": 1, "cpus_per_worker": 1, **train}
    resources = ClusterResources(8, gpus, (Machine(8 / machines, gpus / machines),) * machines)
    return scaling_config(RunConfig.model_validate({"train": train}), resources)


@pytest.mark.parametrize(
    ("device", "gpus", "use_gpu"),
    [
        ("auto", 2, True),
        ("auto", 1, False),
        ("auto", 0, False),
        ("cuda", 0, True),
        ("cpu", 2, False),
    ],
)
def test_workers_get_a_gpu_each_if_configured_and_available(device, gpus, use_gpu):
    config = scaling(gpus, workers=2, device=device)
    assert config.use_gpu == use_gpu
    assert config.total_resources == {"CPU": 2.0, "GPU": 2.0} if use_gpu else {"CPU": 2.0}


def test_one_warning_about_unused_gpus_says_how_many_workers_fit(caplog):
    scaling(3, workers=4, device="auto", global_batch=16, accumulate=2)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    # Not 3 workers: they cannot share the 8 images of a micro-batch.
    assert record.getMessage() == (
        "training on the CPU: each of train.workers=4 needs a GPU, but the cluster has 3. "
        "Set train.workers=2 to train on GPUs, or train.device=cpu if the CPU is intended."
    )


@pytest.mark.parametrize(("device", "gpus"), [("auto", 4), ("auto", 0), ("cpu", 3)])
def test_an_expected_device_gives_no_warning(device, gpus, caplog):
    scaling(gpus, workers=4, device=device)
    assert not caplog.records


def test_a_training_with_fewer_workers_if_need_be_fits_where_the_fewest_do():
    assert scaling(0, machines=1, workers=16, min_workers=4).num_workers == (4, 16)
    assert scaling(0, machines=1, workers=4, min_workers=4).num_workers == 4
    with pytest.raises(TrainingError, match=r"train\.min_workers=9 need 9 CPUs"):
        scaling(0, machines=1, workers=18, global_batch=18, min_workers=9)


def test_fp16_on_the_cpu_is_refused():
    with pytest.raises(TrainingError, match="fp16 needs a GPU"):
        scaling(0, device="auto", precision="fp16")


@pytest.fixture
def no_allocator_settings(monkeypatch):
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


@pytest.mark.usefixtures("no_allocator_settings")
def test_workers_on_gpus_use_expandable_segments():
    assert worker_environment(True) == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert worker_environment(False) == {}


@pytest.mark.usefixtures("no_allocator_settings")
@pytest.mark.parametrize("name", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_allocator_settings_of_the_user_are_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "max_split_size_mb:512")
    assert worker_environment(True) == {}


@pytest.mark.ray
@pytest.mark.usefixtures("no_allocator_settings")
def test_workers_get_the_environment_in_addition_to_the_inherited_one(ray_cluster, tmp_path):
    def read_environment():
        return {name: os.environ.get(name) for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTHONPATH")}

    run = RayRunConfig(
        storage_path=str(tmp_path), worker_runtime_env={"env_vars": worker_environment(True)}
    )
    trainer = TorchTrainer(
        read_environment, scaling_config=ScalingConfig(num_workers=1), run_config=run
    )
    assert trainer.fit().return_value == {
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "PYTHONPATH": os.environ["PYTHONPATH"],
    }
