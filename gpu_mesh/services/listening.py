"""Taking an address to serve at."""

from __future__ import annotations

import socket

from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings import env_name

__all__ = ["address", "listening"]


def address(host: str, port: int) -> str:
    """As it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening(host: str, port: int, setting: str = "api_port") -> socket.socket:
    """A socket bound to an address of this machine; raises InvalidSetting for `setting` where it is taken, or not
    this machine's."""
    family, *_, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # Named as TCP: of others asyncio does not know that their answers are to go out at once, and each takes 40 ms more.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A server that ended a moment ago does not hold its address; one that listens does.
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(at)
    except OSError as exc:
        found.close()
        remedy = (
            f"{address(host, port)} cannot be listened on ({exc.strerror}); choose another port, or end what has it"
        )
        raise InvalidSetting(env_name(setting), port, remedy) from None
    return found
