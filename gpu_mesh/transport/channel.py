"""kombu's Redis channel with two differences: messages to the mesh's queues are published by a script that wakes a
device, and the channel of a worker's task consumer claims where kombu would pop (DESIGN §4, §5).

A channel without a claimer is kombu's own in everything else: inspect, events and replies never see a claim.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import redis as stock
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError, NoScriptError, ResponseError, TimeoutError

from gpu_mesh.domain.header import wrong_header
from gpu_mesh.domain.queues import GPU_QUEUES, Band, band_of
from gpu_mesh.domain.requirements import REQUIREMENT_FIELDS
from gpu_mesh.domain.scoring import mode_of
from gpu_mesh.store import beat, claims, queues, reservations
from gpu_mesh.store.claims import Claimed
from gpu_mesh.store.scripts import script, sha, source
from gpu_mesh.transport.qos import ClaimQoS, ClaimSource

__all__ = ["Channel", "SentinelChannel", "claim_with"]

logger = logging.getLogger(__name__)

#: Longest task id that is kept of a message.
ID_LENGTH = 200
_NOT_PRINTABLE = re.compile(r"[^ -~]")


class PublishBatch(stock.PublishBatch):
    """kombu's batch, which also takes messages for the publishing script."""

    _scripted = False

    def add_publish(self, arguments: Sequence[str]) -> None:
        """Add one call of publish.lua."""
        self.add("evalsha", _publish_sha(), 0, *arguments)
        self._scripted = True

    def flush(self) -> None:
        if self._scripted and self._buffered:
            # With each flush: once the pipeline runs, a script that is missing cannot be loaded any more.
            with self.channel.conn_or_acquire() as client:
                if not client.script_exists(_publish_sha())[0]:
                    client.script_load(source("publish"))
        super().flush()


class Channel(stock.Channel):
    """Over TCP, TLS and unix sockets."""

    from_transport_options = (*stock.Channel.from_transport_options, "mesh_queues")

    #: Set for the task consumer's channel of a worker (`claim_with`).
    claimer: ClaimSource | None = None
    #: Queues whose messages the publishing script takes; a transport option.
    mesh_queues: Sequence[str] = ()
    _shared: Any = None

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """As kombu's, for the mesh with one client a pool: making one takes longer than most of what it sends."""
        if client is None and self.mesh_queues:
            if self._shared is None or self._shared.connection_pool is not self.pool:
                self._shared = self._create_client()
            client = self._shared
        with super().conn_or_acquire(client) as found:
            yield found

    def create_publish_batch(self, max_size: int) -> Any:
        return PublishBatch(self, max_size)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        batch = kwargs.get("_publish_batch")
        headers = message.get("headers") or {}
        if beat.FIRING in headers:
            self._fire(queue, message, kwargs)
            return
        if reservations.SENDING in headers:
            self._send_once(queue, message)
            return
        due, wrong = queues.due_of(headers), wrong_header(headers.get("mesh"))
        # What is malformed wakes nobody: the claim that meets it puts it into the dead letters. Of a batch, a claim
        # puts a message back whose time has not come. Of a queue declared with x-expires, kombu renews the lists' lives
        # with each message.
        if queue not in self.mesh_queues or queue in self._expires or wrong or (batch is not None and due is not None):
            super()._put(queue, message, **kwargs)
            return
        arguments = self._publish_arguments(queue, message)
        if batch is not None:
            batch.add_publish(arguments)
            return
        with self.conn_or_acquire() as client:
            key, envelope, _, _, tag, *_ = arguments
            if due is None or not claims.delay(client, key, envelope, tag, due):
                script(client, "publish")(args=arguments, client=client)

    def _fire(self, queue: str, message: dict[str, Any], options: dict[str, Any]) -> None:
        """Put the message of a periodic entry that is due, unless that was done before, or by another beat."""
        headers = dict(message["headers"])
        firing = headers.pop(beat.FIRING)
        headers[beat.DUE] = float(firing[-1])
        message = {**message, "headers": headers}  # the one given may be sent again
        with self.conn_or_acquire() as client:
            if queue in self.mesh_queues and queue not in self._expires and queues.due_of(headers) is None:
                script(client, "fire")(args=[*self._publish_arguments(queue, message), *firing], client=client)
            elif beat.take(client, firing):
                self._put(queue, message, **options)

    def _send_once(self, queue: str, message: dict[str, Any]) -> None:
        """Send a message that has a reservation, unless that was done."""
        headers = dict(message["headers"])
        sending = headers.pop(reservations.SENDING)
        message = {**message, "headers": headers}  # the one given may be sent again
        due = queues.due_of(headers)
        with self.conn_or_acquire() as client:
            arguments = [*self._publish_arguments(queue, message), *sending, "" if due is None else repr(due)]
            script(client, "once")(args=arguments, client=client)

    def _publish_arguments(self, queue: str, message: dict[str, Any]) -> list[str]:
        """ARGV of publish.lua."""
        headers, properties = message.get("headers") or {}, message["properties"]
        mesh = headers.get("mesh")
        mesh = mesh if isinstance(mesh, dict) and isinstance(mesh.get("needs"), dict) else None
        priority = mesh.get("priority") if mesh else None
        band = band_of(priority) if isinstance(priority, int) else Band.NORMAL
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        # Without the free fields: whatever an application writes there makes no device fit or not.
        given = mesh["needs"] if mesh else {}
        needs = dumps({name: value for name, value in given.items() if name in REQUIREMENT_FIELDS})
        mode = mode_of(band, str(headers.get("task"))).value if queue in GPU_QUEUES else ""
        return [
            key,
            dumps(message),
            band.value,
            needs,
            properties["delivery_tag"],
            _NOT_PRINTABLE.sub("?", str(headers.get("id") or ""))[:ID_LENGTH],
            mode,
        ]

    def _purge(self, queue: str) -> int:
        count = int(super()._purge(queue))
        if queue not in self.mesh_queues:
            return count
        with self.conn_or_acquire() as client:
            return count + queues.purge_delayed(client, queue)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if self.claimer is None:
            super()._brpop_start(timeout)
            return
        consumed = [queue for queue in self._active_queues if queue in self.active_queues]
        if consumed:
            self._in_poll = self.client.connection
            self._brpop_sent_at = monotonic()
            self.client.connection.send_command(*self.claimer.command(consumed))

    def _brpop_read(self, **options: Any) -> bool:
        if self.claimer is None:
            return bool(super()._brpop_read(**options))
        try:
            claimed = self.claimer.read(self._claim_reply(self.claimer, **options))
        finally:
            self._in_poll = None
        if claimed is None:
            raise Empty
        if self._closing:
            self.claimer.hand_back(claimed.tag, counts=False)
            raise Empty
        self._deliver_claim(self.claimer, claimed)
        return True

    def _claim_reply(self, claimer: ClaimSource, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "BRPOP", **options)
        except NoScriptError:
            claimer.load()
        except ResponseError as exc:
            logger.error("claim refused by Redis: %s", exc, extra={"action": "claim_error"})
            claimer.pause()
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        return None

    def _deliver_claim(self, claimer: ClaimSource, claimed: Claimed) -> None:
        try:
            message = loads(claimed.envelope)
            message["headers"][claims.CLAIM_HEADER] = {
                "worker": claimer.worker,
                "tag": claimed.tag,
                "siblings": list(claimed.siblings),
                "deliveries": claimed.deliveries,
            }
            due = queues.due_of(message["headers"])
            if claimed.revoked:
                _revoke(message["headers"])
            elif due is not None:
                if claimer.delay(claimed, due):
                    return
                message["headers"]["eta"] = None  # else Celery puts it through its timer
            message["properties"]["delivery_info"]["redelivered"] = claimed.deliveries > 1
            self.connection._deliver(message, claimed.queue)
        except (OSError, ConnectionError, TimeoutError):
            # Not `connection_errors`, which holds KeyError. A claim that stayed held would be the worker's last one.
            claimer.hand_back(claimed.tag, counts=True)
            raise
        except Exception as exc:  # whatever it is: a stock worker would die of such a message
            logger.exception("message %s cannot be delivered", claimed.tag, extra={"action": "bury"})
            claimer.bury(claimed.tag, f"cannot be delivered: {exc!r}")

    def _poll_error(self, type: str, **options: Any) -> None:
        if self.claimer is not None and type == "BRPOP":
            # Not thrown away: a reply may be a claim.
            self._brpop_read(**options)
            return
        super()._poll_error(type, **options)


class SentinelChannel(Channel, stock.SentinelChannel):
    """Through Sentinel."""

    from_transport_options: tuple[str, ...] = (*stock.SentinelChannel.from_transport_options, "mesh_queues")


@cache
def _publish_sha() -> str:
    return sha("publish")


def _revoke(headers: Mapping[str, Any]) -> None:
    """Tell Celery's worker, which then drops the message and marks result, chord and event."""
    from celery.worker import state  # here, for senders have no use for a worker's modules

    state.revoked.add(headers["id"])


def claim_with(channel: Any, claimer: ClaimSource, concurrency: int) -> None:
    """Make `channel` claim from now on, as the one task consumer's channel of a worker."""
    claimer.load()
    channel._qos = ClaimQoS(channel, channel.qos.prefetch_count, claimer, concurrency)
    channel.claimer = claimer
