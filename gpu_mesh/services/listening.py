"""Taking an address to serve at."""

from __future__ import annotations

import ipaddress
import socket
import ssl

from gpu_mesh.errors import InvalidSetting
from gpu_mesh.settings import Settings, env_name

__all__ = ["address", "check_certificate", "is_loopback", "listening", "scheme"]


def address(host: str, port: int) -> str:
    """As it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def scheme(settings: Settings) -> str:
    """What the API speaks."""
    return "http" if settings.api_tls_cert_file is None else "https"


def check_certificate(settings: Settings) -> None:
    """Raises InvalidSetting where the API's certificate and its key cannot be used."""
    if settings.api_tls_cert_file is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.api_tls_cert_file, settings.api_tls_key_file, password=""
        )
    except (OSError, ValueError) as exc:  # of SSL too
        remedy = f"cannot be used with its key ({exc}): name a PEM file, and its key without a passphrase"
        raise InvalidSetting(env_name("api_tls_cert_file"), str(settings.api_tls_cert_file), remedy) from None


def listening(host: str, port: int, setting: str = "api_port") -> socket.socket:
    """A socket bound to an address of this machine; raises InvalidSetting for `setting` where it is taken, or not
    this machine's."""
    family, kind, protocol, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # With its protocol named asyncio sends small answers at once: else each waits 40 ms for the client's word.
    found = socket.socket(family, kind, protocol)
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
