"""The workers of a training listen on the address of their Ray node alone."""

from datetime import timedelta

import pytest

from pipeline.cluster import LOOPBACK
from pipeline.train.process_group import _free_address, _join


@pytest.mark.ray
def test_the_store_and_the_workers_listen_on_the_address_of_the_node(ray_cluster):
    class Worker:
        def free_address(self):
            return _free_address()

        def join(self, host, port, rank):
            import psutil
            import torch
            import torch.distributed as dist

            _join(rank, "gloo", host, port, 2, timedelta(seconds=120))
            ranks = torch.tensor([float(rank)])
            dist.all_reduce(ranks)
            sockets = psutil.Process().net_connections("inet")
            return ranks.item(), {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}

    workers = [ray_cluster.remote(num_cpus=1)(Worker).remote() for _ in range(2)]
    try:
        host, port = ray_cluster.get(workers[0].free_address.remote())
        joined = [worker.join.remote(host, port, rank) for rank, worker in enumerate(workers)]
        for total, addresses in ray_cluster.get(joined):
            assert total == 1.0
            assert {address.removeprefix("::ffff:") for address in addresses} == {LOOPBACK}
    finally:
        for worker in workers:
            ray_cluster.kill(worker)
