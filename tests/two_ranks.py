"""A function run as both ranks of a process group, each in a process of its own."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_two_ranks(function, folder, *arguments):
    """Call ``function(rank, folder, *arguments)`` in two processes of one gloo group.

    Args:
        function: of a module that is light on imports, which each process repeats.
        folder: where the function leaves its results, and the processes meet.
        arguments: further arguments, which are pickled.
    """
    mp.spawn(_run, args=(function, folder, arguments), nprocs=2)


def _run(rank, function, folder, arguments):
    torch.set_num_threads(1)
    # They meet at a file, because a free port may be taken before rank 0 listens at it.
    meeting = (folder / "ranks").absolute().as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    function(rank, folder, *arguments)
    dist.destroy_process_group()
