"""Work in threads keeps its order, its errors, and what was done before an interruption."""

import threading

import pytest

from pipeline.predict.threads import map_in_threads, read_ahead


def test_results_keep_the_order_of_the_items():
    release = threading.Event()

    def wait_for_the_last(number):
        if number == 9:
            release.set()
        return number if number % 3 or release.wait(10) else None

    assert list(map_in_threads(wait_for_the_last, range(10), 4, 20)) == list(range(10))


def test_no_more_than_the_limit_is_unfinished():
    taken, release = [], threading.Semaphore(0)

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    results = map_in_threads(lambda number: release.acquire() and number, items(), 2, 3)
    release.release()
    assert next(results) == 0
    assert len(taken) <= 5
    release.release(20)
    assert list(results) == list(range(1, 20))


def test_an_interruption_keeps_what_was_taken():
    def items():
        yield from range(3)
        raise KeyboardInterrupt

    done = []
    with pytest.raises(KeyboardInterrupt):
        for number in map_in_threads(str, items(), 2, 10):
            done.append(number)
    assert done == ["0", "1", "2"]


def test_an_error_in_a_thread_ends_the_results():
    with pytest.raises(ZeroDivisionError):
        list(map_in_threads(lambda number: 1 / number, [1, 0, 2], 1, 2))


def test_reading_ahead_stops_with_its_block_and_passes_errors_on():
    started = []

    def endless():
        while True:
            started.append(1)
            yield 1

    with read_ahead(endless(), 3) as items:
        assert next(items) == 1
    count = len(started)
    assert count <= 6

    def broken():
        yield 1
        raise ZeroDivisionError

    with read_ahead(broken(), 3) as items, pytest.raises(ZeroDivisionError):
        list(items)
    assert len(started) == count
