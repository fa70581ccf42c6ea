"""A cluster that is not there is named at once, with the remedy."""

import socket
import time

import pytest

from pipeline.cluster import ClusterError, check_address


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_refused_at_once(scheme):
    address = f"{scheme}127.0.0.1:{closed_port()}"
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"unset it to use this machine alone") as raised:
        check_address(address)
    assert time.monotonic() - started < 5
    assert f"RAY_ADDRESS={address}" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("address", ["no-such-host.invalid:6379", "127.0.0.1:99999999"])
def test_an_address_that_cannot_exist_is_refused(address):
    with pytest.raises(ClusterError, match="no Ray cluster answers"):
        check_address(address)


def test_an_address_where_something_listens_is_left_to_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["auto", "local", "http://127.0.0.1"])
def test_other_forms_are_left_to_ray(address):
    check_address(address)
