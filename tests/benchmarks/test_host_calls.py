"""What a profile says about the host: launches, waits, and the kernels by time."""

import json

import torch

from benchmarks.host_calls import count_calls, find_waits, profile_step

CPU = torch.device("cpu")


def test_copies_without_async_and_events_are_waits():
    launches, waits = count_calls(
        [
            ("cudaLaunchKernel", 700),
            ("cudaLaunchKernelExC_v11060", 30),
            ("cuLaunchKernelEx", 4),
            ("cudaMemcpyAsync", 50),
            ("cudaMemsetAsync", 20),
            ("cudaEventRecord", 9),
            ("aten::add", 99),
            ("cudaMemcpy", 2),
            ("cudaMemcpy_v3020", 1),
            ("cudaStreamSynchronize", 3),
            ("cudaEventSynchronize", 1),
            ("cudaDeviceSynchronize", 5),
        ]
    )
    assert (launches, waits) == (734, 12)


def test_on_a_cpu_operators_are_profiled_and_nothing_is_counted(tmp_path):
    x = torch.randn(64, 64)
    path = tmp_path / "results" / "kernels.json"

    def step():
        (x @ x @ x).relu()

    assert profile_step(step, CPU, path) is None
    kernels = json.loads(path.read_text())
    assert {"aten::mm": 2, "aten::relu": 1}.items() <= {
        k["name"]: k["calls"] for k in kernels
    }.items()
    times = [kernel["self_ms"] for kernel in kernels]
    assert times == sorted(times, reverse=True)
    assert profile_step(step, CPU) is None
    assert find_waits(step, CPU) is None
