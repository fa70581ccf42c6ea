"""The machine and the packages that a job runs with."""

import os
import platform
from importlib.metadata import distributions
from typing import Any

import psutil
import torch

from ops_cuda import backend


def describe_environment() -> dict[str, Any]:
    """Return the facts of this process: machine, devices, versions of all packages."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "devices": describe_devices(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "operators": backend(),
        "packages": dict(sorted(_packages().items(), key=lambda item: item[0].lower())),
    }


def describe_devices() -> list[str]:
    """Return the GPUs of this machine by name; the processor if there are none."""
    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return [f"CPU {platform.machine()}, {os.cpu_count()} cores"]


def _packages() -> dict[str, str]:
    # A damaged installation may have neither a name nor a version.
    return {
        name: str(each.version)
        for each in distributions()
        if (name := each.metadata["Name"]) is not None
    }
