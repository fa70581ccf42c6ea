"""Memory of batches is used again, but never while something still refers to it."""

import gc
from concurrent.futures import ThreadPoolExecutor

import torch

from pipeline.stream.buffers import BufferPool, allocator

MIB = 1 << 20


def test_memory_is_used_again_when_no_view_of_it_is_left():
    pool = BufferPool()
    buffer = pool.take(3 * MIB)
    address = buffer.data_ptr()
    view = buffer[8:16].view(torch.int64)
    del buffer
    other = pool.take(3 * MIB)
    assert other.data_ptr() != address  # the view still refers to it
    del view, other
    # A block serves any size that it can hold.
    again = [pool.take(2 * MIB + 5), pool.take(MIB)]
    assert address in {buffer.data_ptr() for buffer in again}
    assert [len(buffer) for buffer in again] == [2 * MIB + 5, MIB]


def test_memory_in_a_reference_cycle_returns_too():
    pool = BufferPool()
    cycle = [pool.take(MIB)]
    address = cycle[0].data_ptr()
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert pool.take(MIB).data_ptr() == address


def test_threads_never_share_memory():
    pool = BufferPool()

    def fill(number):
        for _ in range(50):
            buffer = pool.take(1000 + number)
            buffer.fill_(number)
            if not (buffer == number).all():
                return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(fill, range(8)))


def test_few_free_blocks_are_kept_and_buffers_outlive_their_pool():
    pool = BufferPool()
    buffers = [pool.take(MIB) for _ in range(9)]
    buffers.clear()
    last = pool.take(MIB)
    assert len(pool._free) <= 4
    del pool
    last.fill_(7)
    assert (last == 7).all()


def test_batches_for_the_cpu_are_not_page_locked():
    assert not allocator(torch.device("cpu"))(10).is_pinned()
