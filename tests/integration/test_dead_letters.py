"""Dead letters: kept with their reason, listed, tried again and dropped (DESIGN §6, §9)."""

from __future__ import annotations

import pytest
from sample_tasks import add

from gpu_mesh import app
from gpu_mesh.domain.claim import Rules
from gpu_mesh.errors import InvalidTask
from gpu_mesh.services import dead_letters, lookup
from gpu_mesh.settings import settings
from gpu_mesh.store import claims, leases
from gpu_mesh.store.client import connect

WORKER = "gpu0@grave"


def bury(why: str) -> str:
    """A task that a worker took and put away; its id."""
    sent = add.delay(1, 2)
    with connect(settings()) as client:
        leases.renew(client, WORKER, 30, anew=True)
        tag = take(client).tag
        assert claims.bury(client, WORKER, tag, why=why)
    return str(sent.id)


def take(client) -> claims.Claimed:
    judged: frozenset[str] = frozenset()
    while True:
        reply = claim(client, judged)
        if isinstance(reply, claims.Claimed):
            return reply
        assert isinstance(reply, claims.Unjudged)
        judged |= reply.needs.keys()


def claim(client, fits: frozenset[str]) -> claims.ClaimReply:
    none: frozenset[str] = frozenset()
    claimant = claims.Claimant(WORKER, "grave", ["internal"], none, fits, none, none, none, look="1")
    claims.load(client)
    _, look = claims.shas()
    return claims.read_reply(client.evalsha(look, 0, *claims.claim_arguments(claimant, Rules())))


def test_kept_with_the_reason(broker: str) -> None:
    task_id = bury("because")
    (letter,) = dead_letters.every(settings())
    assert (letter.id, letter.queue, letter.why, letter.worker) == (task_id, "internal", "because", WORKER)
    assert letter.deliveries == 1
    assert task_id in letter.envelope
    assert list(lookup.waiting_tasks(settings())) == []


def test_tried_again(broker: str) -> None:
    first, second = bury("a"), bury("b")
    assert dead_letters.retry(settings(), first) == 1
    assert [task.id for task in lookup.waiting_tasks(settings())] == [first]
    assert [letter.id for letter in dead_letters.every(settings())] == [second]
    assert dead_letters.retry(settings(), dead_letters.ALL) == 1
    assert dead_letters.every(settings()) == []
    with connect(settings()) as client:
        assert take(client).deliveries == 1, "what went before is forgotten"


def test_dropped(broker: str) -> None:
    task_id = bury("a")
    assert dead_letters.drop(settings(), task_id) == 1
    assert dead_letters.every(settings()) == []
    assert list(lookup.waiting_tasks(settings())) == []


def test_an_unknown_id_is_refused(broker: str) -> None:
    with pytest.raises(InvalidTask, match="gpu-mesh dead list"):
        dead_letters.drop(settings(), "nobody")


def test_a_purge_takes_what_is_delayed_too(broker: str) -> None:
    """`celery purge` empties a queue whole; other queues keep theirs."""
    add.delay(1, 1)
    add.apply_async((2, 2), countdown=600)
    kept = add.apply_async((3, 3), countdown=600, business="revenue")
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("internal") == 2
    assert [(task.id, task.state) for task in lookup.waiting_tasks(settings())] == [(kept.id, "DELAYED")]
