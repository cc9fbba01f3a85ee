"""redis.conf of the embedded Redis."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from gpu_mesh.errors import EmbeddedRedisError
from gpu_mesh.store.redis_address import LOOPBACK, Address

__all__ = ["bind_hosts", "config_text"]


def bind_hosts(listen: str) -> tuple[str, ...]:
    """The addresses to bind: loopback, and `listen` where it is another. Raises EmbeddedRedisError."""
    if listen == "localhost":
        return (LOOPBACK,)
    try:
        wanted = ipaddress.ip_address(listen)
    except ValueError as error:
        raise EmbeddedRedisError(
            f"cannot listen on {listen!r}: expected an IP address of this machine, 0.0.0.0 for all of them, "
            "or localhost"
        ) from error
    # 0.0.0.0 holds loopback: binding both fails.
    if listen == LOOPBACK or (wanted.version == 4 and wanted.is_unspecified):
        return (listen,)
    return (LOOPBACK, listen)


def config_text(server: Address, hosts: tuple[str, ...], data_dir: Path) -> str:
    """redis.conf for a server at `server`'s port on all `hosts` that keeps its data in `data_dir`."""
    lines = [
        "# Written by gpu-mesh at each start; changes are lost.",
        f"bind {' '.join(hosts)}",
        f"port {server.port}",
        f"requirepass {server.password}",
        "protected-mode yes",
        "daemonize no",
        f"dir {_quoted(str(data_dir))}",
        'logfile ""',
        "tcp-keepalive 30",
        "appendonly yes",
        "appendfsync everysec",
        # A machine that lost power leaves half a record at the end.
        "aof-load-truncated yes",
        # The append-only file is enough.
        'save ""',
        # A queue must refuse new tasks rather than forget old ones.
        "maxmemory-policy noeviction",
        # The command line stays `redis-server CONFIG_FILE`: by it a leftover is known as ours.
        "set-proc-title no",
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
