"""The process group of a training's workers, with a store that listens on one address.

The store is where the workers exchange their addresses, without any authentication. The one that
Ray Train lets torch create listens on all interfaces of the machine.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend


class NodeTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's ``TorchConfig`` with a store that listens on the address of its Ray node."""

    @property
    def backend_cls(self) -> type:
        """The class that Ray Train sets the workers up with."""
        return _NodeTorchBackend


class _NodeTorchBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Join all workers in a process group; called by Ray Train before the training."""
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        worker_group.execute(_set_torch_distributed_env_vars)
        host, port = worker_group.execute_single(0, _free_address)
        group = {
            "backend": backend_config.backend or ("nccl" if on_gpus else "gloo"),
            "host": host,
            "port": port,
            "world_size": len(worker_group),
            "timeout": timedelta(seconds=backend_config.timeout_s),
        }
        ray.get(
            [
                # Positional: execute_single_async has a parameter called rank, too.
                worker_group.execute_single_async(rank, _join, rank, **group)
                for rank in range(len(worker_group))
            ]
        )


def _free_address() -> tuple[str, int]:
    host = ray.util.get_node_ip_address()
    with _listen(host, 0) as listener:
        return host, listener.getsockname()[1]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=1024)


def _join(
    rank: int, backend: str, host: str, port: int, world_size: int, timeout: timedelta
) -> None:
    # As Ray Train sets it: a collective that fails or times out ends the process.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    if rank == 0:
        # The store takes over the socket.
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, world_size, True, timeout, master_listen_fd=_listen(host, port).detach()
        )
    else:
        store = dist.TCPStore(host, port, world_size, False, timeout)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
