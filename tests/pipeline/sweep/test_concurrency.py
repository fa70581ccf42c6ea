"""As many trials run at once as the machines can hold."""

import pytest

from pipeline.cluster import ClusterResources, Machine
from pipeline.config import RunConfig
from pipeline.sweep.concurrency import concurrent_trials
from pipeline.train.failures import TrainingError
from pipeline.train.worker_count import settle_workers

CPUS = ClusterResources(cpus=2, gpus=0)
TWO_MACHINES = ClusterResources(cpus=6, gpus=0, machines=(Machine(3, 0), Machine(3, 0)))
ONE_GPU = ClusterResources(cpus=16, gpus=1, machines=(Machine(16, 1),))


def run_config(train, **sweep):
    return RunConfig.model_validate({"train": {"global_batch": 4, **train}, "sweep": sweep})


@pytest.mark.parametrize(
    ("workers", "cpus", "limit", "resources", "expected"),
    [
        (1, 1, None, CPUS, 2),
        (2, 1, None, CPUS, 1),
        (1, 1, 1, CPUS, 1),
        (1, 0.5, None, CPUS, 4),
        # A worker of two CPUs fits once on each machine; the third CPUs are left.
        (1, 2, None, TWO_MACHINES, 2),
    ],
)
def test_as_many_trials_run_as_fit_into_the_cluster(workers, cpus, limit, resources, expected):
    config = run_config({"workers": workers, "cpus_per_worker": cpus}, max_concurrent=limit)
    assert concurrent_trials(config, resources, 8) == expected
    assert concurrent_trials(config, resources, 1) == 1


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1), (0.5, 2), (0.25, 4)])
def test_trials_share_a_gpu_and_its_cpus(share, expected):
    config = run_config({"device": "cuda", "gpus_per_worker": share})
    train = settle_workers(config.train, ONE_GPU, is_trial=True)
    settled = config.model_copy(update={"train": train})
    assert concurrent_trials(settled, ONE_GPU, 8) == expected
    assert train.cpus_per_worker == 16 * share


def test_two_workers_of_a_trial_cannot_share_a_gpu():
    with pytest.raises(ValueError, match="needs workers=1"):
        run_config({"workers": 2, "gpus_per_worker": 0.5})


def test_a_sweep_whose_trials_cannot_fit_is_refused():
    config = run_config({"workers": 4, "cpus_per_worker": 1})
    with pytest.raises(TrainingError, match="need 4 CPUs, but this machine has 2"):
        concurrent_trials(config, CPUS, 8)


def test_a_population_that_does_not_fit_at_once_is_refused():
    config = run_config({"workers": 1, "cpus_per_worker": 1}, scheduler="pbt")
    assert concurrent_trials(config, CPUS, 2) == 2
    with pytest.raises(TrainingError, match="compares all 3 trials while they run, but only 2 fit"):
        concurrent_trials(config, CPUS, 3)
