"""The registry of nodes: who is in the mesh, with which devices, and when last heard of (SPEC N1, N3)."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis

from gpu_mesh.domain.device import Device
from gpu_mesh.errors import NodeNameTaken
from gpu_mesh.store import keys, server
from gpu_mesh.store.scripts import script

__all__ = ["Node", "NodeEntry", "all_nodes", "forget_silent", "instance_id", "leave", "parse", "register"]

logger = logging.getLogger(__name__)

#: A node silent for longer is forgotten, s: a week.
FORGET_AFTER_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node says of itself."""

    name: str
    role: str
    host: str
    version: str
    devices: tuple[Device, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready data; `from_dict` reads it back."""
        return {
            "name": self.name,
            "role": self.role,
            "host": self.host,
            "version": self.version,
            "labels": self.labels,
            "devices": [device.to_dict() for device in self.devices],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Node:
        """Read `to_dict`'s data."""
        devices = tuple(Device.from_dict(device) for device in data["devices"])
        return cls(
            name=data["name"],
            role=data["role"],
            host=data["host"],
            version=data["version"],
            labels=data["labels"],
            devices=devices,
        )


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node as the registry has it. Times in seconds of Redis's clock."""

    node: Node
    seen_at: float
    silent_s: float
    #: It said goodbye.
    left: bool

    def online(self, ttl_s: float) -> bool:
        """Whether it was heard of within `ttl_s` and did not leave."""
        return not self.left and self.silent_s <= ttl_s


def instance_id() -> str:
    """Who registers: machine, process and the process's start, so that a reused pid is no one else."""
    return f"{_machine()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def _machine() -> str:
    """Where a process id means the same process: this boot of this machine, in this namespace of processes.

    The machine's own id would not do: cloned machines and containers share it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}.{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:  # not Linux
        return f"{os.uname().nodename}.{psutil.boot_time():.0f}"


def _is_dead_here(instance: str) -> bool:
    """Whether `instance` was a process of this machine that is no more; False where it cannot be told."""
    try:
        machine, pid, started = instance.rsplit("/", 2)
        return machine == _machine() and abs(psutil.Process(int(pid)).create_time() - float(started)) > 1.0
    except psutil.NoSuchProcess:
        return True
    except (ValueError, psutil.AccessDenied):
        return False


def register(
    client: redis.Redis,
    node: Node,
    *,
    instance: str,
    ttl_s: float,
    is_dead_here: Callable[[str], bool] = _is_dead_here,
) -> None:
    """Enter `node`, or renew it. A dead instance of this machine is displaced at once.

    Raises NodeNameTaken while another living machine or process holds the name.
    """
    body = json.dumps(node.to_dict())
    run = script(client, "register")
    taken, held = run(keys=[keys.NODES], args=[node.name, instance, body, ttl_s, ""])
    if not taken:
        holder = str(json.loads(held).get("instance"))
        if is_dead_here(holder):
            taken, held = run(keys=[keys.NODES], args=[node.name, instance, body, ttl_s, holder])
    if not taken:
        raise _taken(node.name, json.loads(held))


def _taken(name: str, held: dict[str, Any]) -> NodeNameTaken:
    body, instance = held.get("node"), str(held.get("instance"))
    host = body.get("host", "?") if isinstance(body, dict) else "?"
    # machine/pid/start, see instance_id; a foreign form is shown whole.
    process = instance.rsplit("/", 2)[-2] if instance.count("/") >= 2 else instance
    return NodeNameTaken(
        f"node name {name!r} is in use by host {host}, process {process}; "
        f"set NODE_NAME to a name of this machine's own, or stop the other one"
    )


def leave(client: redis.Redis, name: str, *, instance: str) -> None:
    """Say goodbye: the node shows as offline at once, and its name is free. Nothing if another holds it by now."""

    def mark(pipe: redis.client.Pipeline) -> None:
        held = _entry(name, pipe.hget(keys.NODES, name))
        pipe.multi()
        if held is not None and held.get("instance") == instance:
            pipe.hset(keys.NODES, name, json.dumps({**held, "left": True}))

    # Watched: what another instance registers in between stays.
    client.transaction(mark, keys.NODES)


def all_nodes(client: redis.Redis) -> list[NodeEntry]:
    """Every known node, by name. An entry that cannot be read is left out, with a logged warning."""
    # The clock after the registry: an entry newer than now was written before the clock stepped back.
    found = client.hgetall(keys.NODES)
    return parse(found, server.now(client))


def parse(found: Mapping[Any, Any], now: float) -> list[NodeEntry]:
    """The same, of what Redis held at `now`."""
    entries = []
    for name, held in sorted(found.items()):
        data = _entry(name, held)
        if data is None:
            continue
        try:
            node, seen_at = Node.from_dict(data["node"]), float(data["seen_at"])
        except (ValueError, KeyError, TypeError) as exc:
            _warn(name, exc)
            continue
        entries.append(NodeEntry(node, seen_at, abs(now - seen_at), bool(data.get("left"))))
    return entries


def _entry(name: object, held: object) -> dict[str, Any] | None:
    if held is None:
        return None
    try:
        data = json.loads(str(held))
    except ValueError as exc:
        _warn(name, exc)
        return None
    if not isinstance(data, dict):
        _warn(name, TypeError(f"a {type(data).__name__}, not an object"))
        return None
    return data


def _warn(name: object, exc: Exception) -> None:
    logger.warning("the registration of node %s cannot be read: %r", name, exc, extra={"action": "read_node"})


def forget_silent(client: redis.Redis) -> list[str]:
    """Drop nodes not heard of for FORGET_AFTER_S; returns their names."""
    gone = [entry.node.name for entry in all_nodes(client) if entry.silent_s > FORGET_AFTER_S]
    if gone:
        client.hdel(keys.NODES, *gone)
    return gone
