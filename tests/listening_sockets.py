"""Where processes listen."""

import ipaddress

import psutil


def listening_sockets(process):
    """Return (process name, address) of each socket that it and its descendants listen on."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            sockets = each.net_connections("inet")
            found |= {(each.name(), s.laddr.ip) for s in sockets if s.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(text):
    address = ipaddress.ip_address(text)
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
