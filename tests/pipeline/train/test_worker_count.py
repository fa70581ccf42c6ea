"""``auto`` uses the GPUs, or the machines, that a cluster has; no hardware is needed to tell."""

import pytest

from pipeline.cluster import ClusterResources, Machine
from pipeline.config import TrainConfig
from pipeline.train.failures import TrainingError
from pipeline.train.worker_count import fit_to_workers, settle_workers

LAPTOP = (Machine(8, 0),)
ONE_GPU = (Machine(16, 1),)
EIGHT_GPUS = (Machine(4, 0), Machine(96, 8))
TWO_HOSTS = (Machine(32, 4), Machine(64, 4))
CPU_HOSTS = (Machine(16, 0), Machine(12, 0), Machine(16, 0), Machine(16, 0))
NO_CPU_HEAD = (Machine(0, 0), Machine(8, 0))


def settle(machines, is_trial=False, **train):
    total = ClusterResources(
        sum(each.cpus for each in machines), sum(each.gpus for each in machines), machines
    )
    settled = settle_workers(TrainConfig.model_validate(train), total, is_trial)
    return settled.worker_count, settled.worker_cpus


@pytest.mark.parametrize(
    ("machines", "train", "expected"),
    [
        (LAPTOP, {}, (1, 8)),
        (ONE_GPU, {}, (1, 16)),
        (ONE_GPU, {"device": "cpu"}, (1, 16)),
        (EIGHT_GPUS, {}, (8, 12)),
        (EIGHT_GPUS, {"device": "cuda"}, (8, 12)),
        (TWO_HOSTS, {}, (8, 8)),  # as many as the smaller share
        (CPU_HOSTS, {}, (4, 12)),
        (NO_CPU_HEAD, {}, (1, 8)),
        (EIGHT_GPUS, {"workers": 2}, (2, 12)),
        (LAPTOP, {"workers": 2}, (2, 4)),
        (LAPTOP, {"workers": 3, "global_batch": 3}, (3, 2)),
        (LAPTOP, {"cpus_per_worker": 2.5}, (1, 2.5)),
        (LAPTOP, {"workers": 16}, (16, 1)),  # refused later, with the numbers
        (LAPTOP, {"workers": 4, "device": "cuda"}, (4, 1)),  # an autoscaler may add GPUs
    ],
)
def test_workers_and_cpus_follow_the_cluster(machines, train, expected):
    assert settle(machines, **train) == expected


@pytest.mark.parametrize(
    ("machines", "expected"), [(LAPTOP, (1, 1)), (EIGHT_GPUS, (1, 12)), (ONE_GPU, (1, 16))]
)
def test_a_trial_takes_one_gpu_or_one_cpu(machines, expected):
    assert settle(machines, is_trial=True) == expected


def test_gpus_that_cannot_share_the_batch_evenly_are_left_with_a_warning(caplog):
    assert settle(EIGHT_GPUS, global_batch=12, accumulate=2)[0] == 6
    assert "6 of 8 GPUs are used, because more cannot share 6 images" in caplog.text


def test_gpus_that_are_not_there_cannot_be_counted():
    with pytest.raises(TrainingError, match=r"set train\.workers to a number"):
        settle(LAPTOP, device="cuda")


def test_an_image_at_a_time_has_one_worker(caplog):
    assert settle(CPU_HOSTS, global_batch=1) == (1, 12)


def test_a_batch_that_micro_batches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="global_batch 16 is not a multiple of accumulate = 3"):
        TrainConfig(accumulate=3)
    with pytest.raises(ValueError, match="not a multiple of workers x accumulate = 3 x 1"):
        TrainConfig(workers=3)


@pytest.mark.parametrize(
    ("workers", "accumulate", "now", "expected"),
    [
        (4, 1, 4, 1),
        (4, 1, 2, 2),  # 4 images at a time, as before
        (4, 2, 2, 4),
        (4, 1, 3, 2),  # shares of 5 and 6 images, at most 3 at a time
        (4, 1, 1, 4),
        (16, 1, 11, 1),  # shares of 1 and 2 images: none can be empty
    ],
)
def test_fewer_workers_take_as_many_images_at_a_time_as_before(workers, accumulate, now, expected):
    train = TrainConfig(workers=workers, accumulate=accumulate, global_batch=16)
    assert fit_to_workers(train, now).accumulate == expected


def test_the_minimum_cannot_be_above_the_number_of_workers():
    with pytest.raises(ValueError, match="min_workers 3 is above workers 2"):
        TrainConfig(workers=2, min_workers=3)
