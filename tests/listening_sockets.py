"""Where processes listen."""

import ipaddress

import psutil


def listening_sockets(process):
    """Return (process name, address, port) of each socket it and its descendants listen on."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            sockets = each.net_connections("inet")
            listening = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN]
            found |= {(each.name(), address.ip, address.port) for address in listening}
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(text):
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
