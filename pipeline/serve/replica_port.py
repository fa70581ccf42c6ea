"""The port of Ray Serve in a replica: on the address of its Ray, not on all of the machine's."""

from typing import Any

import ray
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica


def listen_on_node_address() -> None:
    """Let Ray Serve listen on the address of this process's Ray node; call it in a replica.

    Each replica has a server of gRPC for calls of other deployments. Ray Serve opens it on all
    interfaces, also where Ray itself listens on the loopback interface only, as in a local cluster.
    It is opened after the constructor of the replica, and there is no setting for it.
    """
    address = ray.util.get_node_ip_address()
    host = f"[{address}]" if ":" in address else address

    def add_port(server: Any, _address: str) -> int:
        port: int = add_port_to_grpc_server(server, f"{host}:0")
        return port

    replica.add_port_to_grpc_server = add_port
