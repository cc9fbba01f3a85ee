"""A world of messages and devices around the claim scripts, as the tests of this folder see it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import redis

from gpu_mesh.domain import preemption
from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.holds import PauseScope
from gpu_mesh.domain.queues import GPU_QUEUES, Band
from gpu_mesh.domain.scoring import mode_of
from gpu_mesh.store import claims, keys, leases
from gpu_mesh.store.scripts import script

STEPS = {Band.CRITICAL: "", Band.HIGH: ":3", Band.NORMAL: ":6", Band.LOW: ":9"}
TTL_S = 3600.0
MAX_DELIVERIES = 3


def new_tag() -> str:
    """A delivery tag as kombu makes them."""
    return str(uuid.uuid4())


def envelope(tag: str, *, mesh: object = None, body: str = "W10=", **headers: object) -> str:
    """A stock envelope; with `mesh` it has that header."""
    return json.dumps(
        {
            "body": body,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"id": tag, "task": "t", **({} if mesh is None else {"mesh": mesh}), **headers},
            "properties": {"delivery_tag": tag, "delivery_info": {}, "body_encoding": "base64"},
        }
    )


def publish(
    client: redis.Redis, queue: str, band: Band, needs: Mapping[str, Any], tag: str, body: str = "W10=", **mesh: object
) -> str:
    """Send one of ours; returns the worker woken."""
    text = json.dumps(needs)
    raw = envelope(tag, mesh={**mesh, "needs": needs}, body=body)
    return str(script(client, "publish")(args=[queue + STEPS[band], raw, band, text, tag, tag, mode_of(band)]))


def send(client: redis.Redis, queue: str = "internal", **needs: object) -> str:
    """One of ours; returns its tag."""
    tag = new_tag()
    publish(client, queue, Band.NORMAL, needs, tag)
    return tag


@dataclass
class Device:
    """A worker that judges needs by `max_gb`, as the real claimer does, and knows what it holds."""

    client: redis.Redis
    worker: str = "gpu0@node"
    max_gb: float = 1e9
    loaded: str | None = None
    queues: tuple[str, ...] = GPU_QUEUES
    rules: Rules = field(default_factory=Rules)
    held: set[str] = field(default_factory=set)
    judged: dict[str, tuple[bool, str | None]] = field(default_factory=dict)
    teams: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    look: str | None = None
    pause_scope: PauseScope = PauseScope.NODE
    yielding: preemption.Rules = field(default_factory=preemption.Rules)

    def start(self) -> Device:
        """Begin its lease."""
        leases.renew(self.client, self.worker, TTL_S, anew=True)
        return self

    def ask(self) -> claims.ClaimReply:
        """One claim, answered as it is."""
        look, self.look = self.look, None
        claimant = claims.Claimant(
            worker=self.worker,
            node=self.worker.partition("@")[2],
            queues=self.queues,
            held=frozenset(self.held),
            fits=frozenset(n for n, (fits, _) in self.judged.items() if fits),
            misfits=frozenset(n for n, (fits, _) in self.judged.items() if not fits),
            loaded=frozenset(n for n, (_, model) in self.judged.items() if self.loaded and model == self.loaded),
            modelless=frozenset(n for n, (_, model) in self.judged.items() if model is None),
            teams=self.teams,
            look=look or "",
            pause_scope=self.pause_scope,
        )
        name = "claim" if look is None else "look"
        reply = claims.read_reply(self.call(name, claims.claim_arguments(claimant, self.rules, self.yielding)))
        self.look = reply.what if isinstance(reply, claims.Look) else None
        return reply

    def call(self, name: str, arguments: list[str]) -> Any:
        """What the script answers."""
        return script(self.client, name)(args=arguments)

    def claim(self, most: int = 1000) -> claims.Claimed | claims.Refused | None:
        """Ask until there is a claim, a refusal or nothing."""
        for _ in range(most):
            reply = self.ask()
            if isinstance(reply, claims.Unjudged):
                for number, text in reply.needs.items():
                    self.judged[number] = self.judge(text)
            elif isinstance(reply, claims.Claimed):
                self.held.add(reply.tag)
                return reply
            elif isinstance(reply, claims.Refused):
                return reply
            elif isinstance(reply, claims.Idle):
                return None
        raise AssertionError(f"no answer in {most} claims: {reply}")

    def judge(self, text: str) -> tuple[bool, str | None]:
        """Whether it fits needs, and their model."""
        needs = json.loads(text)
        gb = needs.get("memory_gb", 0)
        model = needs.get("model")
        fits = not isinstance(gb, (int, float)) or gb <= self.max_gb
        return fits, model if isinstance(model, str) else None

    def ack(self, tag: str) -> bool:
        """Its job is done."""
        self.held.discard(tag)
        return claims.ack(self.client, self.worker, tag)

    def drain(self) -> list[str]:
        """Tags of all it can claim, each acked."""
        tags = []
        while isinstance(claimed := self.claim(), claims.Claimed):
            tags.append(claimed.tag)
            self.ack(claimed.tag)
        return tags


def tags_in(raws: Iterable[str]) -> list[str]:
    """Delivery tags of envelopes, also of dead letters."""
    return [json.loads(raw.partition("\n")[2] or raw)["properties"]["delivery_tag"] for raw in raws]


def waiting(client: redis.Redis, queues: Iterable[str] = GPU_QUEUES) -> list[str]:
    """Delivery tags in the lists."""
    return [tag for q in queues for step in STEPS.values() for tag in tags_in(client.lrange(q + step, 0, -1))]


def claimed_at(client: redis.Redis, worker: str, tag: str) -> float:
    """By Redis's clock, s: the `now` of the claim."""
    held = client.hget(keys.claims(worker), tag)
    assert held is not None
    return claims.read_record(held).claimed_at
