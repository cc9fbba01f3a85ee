"""What Docker Compose would run: docker-compose.yml with its variables filled in, as far as this project uses them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"

_START = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?P<sign>:[-?])?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class VariableMissing(AssertionError):
    """A variable that must be set is not."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, nested; an empty variable is an unset one."""
    done = ""
    while found := _START.search(text):
        done += text[: found.start()]
        text = text[found.end() :]
        if found["escaped"]:
            done += "$"
            continue
        otherwise, text = _to_brace(text)
        value = variables.get(found["name"], "")
        if not value and found["sign"] == ":?":
            raise VariableMissing(f"{found['name']}: {otherwise}")
        done += value or interpolate(otherwise, variables)
    return done + text


def _to_brace(text: str) -> tuple[str, str]:
    """What stands before the brace that closes, and what after it."""
    depth = 1
    for index, char in enumerate(text):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return text[:index], text[index + 1 :]
    raise AssertionError(f"a brace is missing: {text}")


def raw() -> dict[str, Any]:
    """The file as YAML has it, merges done, variables not filled in."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return found


def texts(node: Any) -> Iterator[str]:
    """Every text in a piece of it."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


@dataclass(frozen=True, slots=True)
class Service:
    """One service, its variables filled in."""

    name: str
    data: dict[str, Any]

    @property
    def profiles(self) -> list[str]:
        return list(self.data["profiles"])

    @property
    def command(self) -> list[str]:
        return list(self.data["command"])

    @property
    def environment(self) -> dict[str, str]:
        return dict(self.data["environment"])

    @property
    def health_command(self) -> list[str]:
        kind, *words = self.data["healthcheck"]["test"]
        assert kind in ("CMD", "CMD-SHELL"), kind
        return words if kind == "CMD" else ["sh", "-c", *words]

    @property
    def health_timeout_s(self) -> float:
        return seconds(self.data["healthcheck"]["timeout"])

    @property
    def targets(self) -> list[str]:
        """Folders of the container that are mounted."""
        return [volume.split(":")[1] for volume in self.data["volumes"]]

    @property
    def hosts_of_ports(self) -> list[str]:
        """Addresses of the host that its ports are published on; empty for all of them."""
        return [port.rpartition(":")[0].rpartition(":")[0] for port in self.data.get("ports", ())]


def seconds(duration: str) -> float:
    """`90s`, `1m30s`."""
    parts = re.findall(r"(\d+)([hms])", duration)
    assert "".join(count + unit for count, unit in parts) == duration, duration
    return float(sum(int(count) * _SECONDS[unit] for count, unit in parts))


def services(variables: Mapping[str, str]) -> dict[str, Service]:
    """All services. Raises VariableMissing."""
    return {name: Service(name, _resolved(data, variables)) for name, data in raw()["services"].items()}


def _resolved(node: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(node, Mapping):
        return {key: _resolved(value, variables) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(value, variables) for value in node]
    return interpolate(node, variables) if isinstance(node, str) else node
