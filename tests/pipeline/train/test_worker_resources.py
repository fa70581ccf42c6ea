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
from pipeline.train.worker_count import settle_workers
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


HEAD = (Machine(0, 0),)


def settled_scaling(machines, has_autoscaler=False, **train):
    """Return the scaling with ``auto`` settled, as the driver does it."""
    cpus, gpus = sum(m.cpus for m in machines), sum(m.gpus for m in machines)
    resources = ClusterResources(cpus, gpus, machines, has_autoscaler)
    config = RunConfig.model_validate({"train": train})
    settled = config.model_copy(update={"train": settle_workers(config.train, resources)})
    return scaling_config(settled, resources)


@pytest.mark.parametrize("has_autoscaler", [False, True])
@pytest.mark.parametrize(
    ("gpus", "workers"), [((0,), 1), ((1,), 1), ((2,), 2), ((0, 8), 8), ((0, 4, 4), 8)]
)
def test_auto_takes_the_gpus_that_are_there(gpus, workers, has_autoscaler):
    config = settled_scaling(tuple(Machine(32, each) for each in gpus), has_autoscaler)
    assert (config.num_workers, config.use_gpu) == (workers, sum(gpus) > 0)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_number_of_workers_waits_for_machines_of_the_autoscaler(device, caplog):
    """The usual state of an autoscaled cluster without jobs: its head alone, with no CPU."""
    config = settled_scaling(HEAD, has_autoscaler=True, workers=2, device=device)
    assert (config.num_workers, config.use_gpu) == (2, device == "cuda")
    kind = "GPU" if device == "cuda" else "CPU"
    assert f"train.workers=2 need 2 {kind}s, and the cluster has 0 now" in caplog.text
    assert "waits until its autoscaler has added machines" in caplog.text


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_without_an_autoscaler_a_machine_that_is_too_small_is_refused(device):
    with pytest.raises(TrainingError, match=r"need 2 [CG]PUs, but this machine has 0"):
        settled_scaling(HEAD, workers=2, device=device)


@pytest.mark.parametrize("workers", ["auto", 2])
def test_auto_on_an_autoscaled_cluster_without_gpus_says_that_it_trains_on_the_cpu(workers, caplog):
    config = settled_scaling((Machine(8, 0),), has_autoscaler=True, workers=workers)
    assert not config.use_gpu
    assert "training on the CPU: train.device=auto looks at the GPUs that" in caplog.text
    assert "set train.device=cuda and train.workers to their number" in caplog.text


def test_auto_says_that_it_does_not_wait_for_more_gpus(caplog):
    machines = (Machine(0, 0), Machine(8, 2))
    assert settled_scaling(machines, has_autoscaler=True).num_workers == 2
    assert "train.workers=auto counts the 2 GPUs that the cluster has now" in caplog.text


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
