"""No network: this interpreter, and every one that it starts, reaches no machine but this one.

Python imports a module of this name when it starts. With this folder on ``PYTHONPATH``, as `make book` and
``tests/conftest.py`` put it there, notebooks' kernels, workers and command lines that are tested are held to it, too;
pytest-socket would hold the test process alone. What is refused raises an error that no library takes for a network
that is down.
"""

import ipaddress
import socket
import sys

ADDRESSED = {"socket.connect", "socket.sendto", "socket.sendmsg"}
NAMED = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


class NetworkRefused(RuntimeError):
    """Something asked for another machine."""


def is_here(host: object) -> bool:
    """Whether ``host``, a name or an address, is this machine; None and "" stand for it."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(event: str, arguments: tuple) -> None:
    """The audit hook (PEP 578)."""
    if event in ADDRESSED:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path or None: no other machine
    elif event in NAMED:
        host = arguments[0]
    else:
        return
    if not is_here(host):
        raise NetworkRefused(f"no network in tests and builds: {event} to {host!r} refused")


sys.addaudithook(refuse)
