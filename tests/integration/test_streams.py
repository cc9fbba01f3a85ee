"""A task's stream in a real Redis: what writers may add, what it costs, what readers are given (issue 4 §2)."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import states
from celery.exceptions import TaskRevokedError, TimeoutError
from celery.result import allow_join_result, denied_join_result
from click.testing import CliRunner
from redis_servers import RedisServer, running
from waiting import wait_for

import gpu_mesh as mesh
from gpu_mesh import app
from gpu_mesh.cli.root import root
from gpu_mesh.cli.streaming import BEGINS_ANEW
from gpu_mesh.errors import BrokerUnavailable, InvalidTask, StreamIncomplete
from gpu_mesh.services import following, streaming
from gpu_mesh.services.following import Piece, follow
from gpu_mesh.services.streaming import StreamWriter, end_stream, put_to_redis
from gpu_mesh.settings import Settings, settings
from gpu_mesh.store import keys, streams
from gpu_mesh.store.client import connect, process_client

TASK = "a-task"
WORKER, TAG = "gpu0@n1", "a-tag"
#: Of a test's reader, s: a fault ends it instead of hanging.
LIMIT_S = 20.0


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found
    process_client(os.getpid(), streaming.TIMEOUT_S).close()


@pytest.fixture
def add(client: redis.Redis) -> Callable[..., int]:
    """Adds a piece to the stream of TASK, unclaimed unless told otherwise."""

    def add(run: int, at: int = 0, text: str = "", thinking: str = "", **more: Any) -> int:
        options = {"claim": {}, "max_bytes": 1000, "expires_s": 60, **more}
        return streams.add(client, TASK, run=run, at=at, text=text, thinking=thinking, **options)

    return add


def finish(client: redis.Redis, run: int, at: int, state: str = states.SUCCESS, keep_text: bool = False) -> bool:
    return streams.end(client, TASK, run=run, at=at, state=state, keep_text=keep_text, expires_s=60)


def texts(client: redis.Redis) -> list[str]:
    return [entry.text for entry in streams.read(client, TASK) if entry.text]


def succeed(text: str, task: str = TASK, **more: Any) -> None:
    app.backend.store_result(task, {"text": text, **more}, states.SUCCESS)


def whole(pieces: Any) -> str:
    text = ""
    for piece in pieces:
        text = piece.text if piece.restart else text + piece.text
    return text


# What a stream takes


def test_entries_come_back(client: redis.Redis, add: Callable[..., int]):
    """Text, thinking and sizes as they were written."""
    run = add(0)
    assert add(run, 0, "naïve", "hm") == run
    first, second = streams.read(client, TASK)
    assert (first.run, first.size, first.end) == (run, 0, None)
    assert (second.run, second.at, second.text, second.thinking, second.size) == (run, 0, "naïve", "hm", 8)
    assert streams.read(client, TASK, second.id) == []


def test_a_piece_sent_twice_is_there_once(client: redis.Redis, add: Callable[..., int]):
    """DESIGN §9: its first answer was lost."""
    run = add(0)
    assert [add(run, 0, "one "), add(run, 0, "one "), add(run, 4, "two")] == [run] * 3
    assert texts(client) == ["one ", "two"]


def test_a_run_that_was_replaced_adds_nothing(client: redis.Redis, add: Callable[..., int]):
    """DESIGN §6, fencing: nor does it end its successor's stream; the new run's text begins anew."""
    old = add(0)
    add(old, 0, "old")
    new = add(0)
    assert new > old
    assert add(old, 3, "late") == 0
    assert finish(client, old, 3) is False
    add(new, 0, "new")
    assert texts(client) == ["new"]


def test_runs_rise_also_after_the_stream_expired(client: redis.Redis, add: Callable[..., int]):
    """A reader that stayed must not take the second run for the first."""
    old = add(0)
    client.delete(keys.stream(TASK))
    wait_for(lambda: int(time.time() * 1000) > old, "a millisecond")
    assert add(0) > old


def test_a_run_whose_claim_is_lost_adds_nothing(client: redis.Redis, add: Callable[..., int]):
    """DESIGN §6, fencing: from the moment the claim is another's."""
    claim = {"worker": WORKER, "tag": TAG}
    assert add(0, claim=claim) == 0
    client.hset(keys.claims(WORKER), TAG, "held")
    run = add(0, claim=claim)
    assert run > 0
    client.delete(keys.claims(WORKER))
    assert add(run, 0, "late", claim=claim) == 0
    assert texts(client) == []


def test_the_oldest_text_goes_first(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: bounded by bytes; what is left says what went before it."""
    run = add(0)
    for i in range(40):
        add(run, i * 100, f"{i:<100}")
    kept = streams.read(client, TASK)
    assert [entry.at for entry in kept] == [*range(3000, 4000, 100)]


def test_entries_are_bounded_too(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: tiny pieces cost more than their bytes."""
    run = add(0)
    for i in range(20):
        add(run, i, "x", max_entries=5)
    assert client.xlen(keys.stream(TASK)) == 5


def test_it_expires(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: renewed with each piece, and at the end."""
    run = add(0, expires_s=100)
    assert 99_000 < client.pttl(keys.stream(TASK)) <= 100_000
    add(run, 0, "x", expires_s=200)
    assert 199_000 < client.pttl(keys.stream(TASK)) <= 200_000
    finish(client, run, 1)
    assert 59_000 < client.pttl(keys.stream(TASK)) <= 60_000


def test_ten_thousand_streams_do_not_fill_redis(client: redis.Redis):
    """Issue 4 §2: of a task that ended, whose result has the text, 4 KB stay, for seconds."""
    count, text = 10_000, "word " * 1000
    before = client.info("memory")["used_memory"]
    for start in range(0, count, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(start, start + 1000):
            key = [keys.stream(f"task-{number}")]
            pipe.evalsha(_sha(client, "stream"), 1, *key, "", "", 0, 0, text, "", 60_000, 1_000_000, 1000)
        runs = pipe.execute()
        for number, run in zip(range(start, start + 1000), runs, strict=True):
            key = [keys.stream(f"task-{number}")]
            pipe.evalsha(_sha(client, "stream_end"), 1, *key, run, len(text), "SUCCESS", 0, 10_000)
        assert pipe.execute() == [1] * 1000
    grown = client.info("memory")["used_memory"] - before
    assert client.dbsize() >= count
    assert grown < count * 5_000
    assert all(0 < client.pttl(keys.stream(f"task-{number}")) <= 10_000 for number in range(0, count, 1000))


def _sha(client: redis.Redis, name: str) -> str:
    from gpu_mesh.store.scripts import sha, source

    found = sha(name)
    if not client.script_exists(found)[0]:
        client.script_load(source(name))
    return found


# What a reader is given


def test_pieces_as_they_come(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: each within moments, the rest with the result; waiting costs a blocked read, no polling."""
    run = add(0)
    pieces = follow(app, settings(), TASK, timeout_s=LIMIT_S)
    for i, word in enumerate(("one ", "two ")):
        add(run, i * 4, word)
        assert next(pieces) == Piece(word)
    threading.Timer(0.3, lambda: add(run, 8, thinking="hm")).start()
    calls = client.info("commandstats")
    assert next(pieces) == Piece("", "hm")
    now = client.info("commandstats")
    assert now["cmdstat_xread"]["calls"] - calls["cmdstat_xread"]["calls"] <= 3
    succeed("one two", thinking="hm")
    finish(client, run, 10)
    # Not what was streamed: the text of the result counts.
    assert list(pieces) == [Piece("one two", "hm", restart=True)]


def test_one_connection(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: a reader holds one while it waits, and gives it back."""
    run = add(0, text="one")
    assert app.AsyncResult(TASK).state == states.PENDING  # by the backend's own connection
    before = len(client.client_list())
    pieces = follow(app, settings(), TASK, timeout_s=LIMIT_S)
    assert next(pieces) == Piece("one")
    assert len(client.client_list()) == before + 1
    succeed("one")
    finish(client, run, 3)
    assert list(pieces) == []
    wait_for(lambda: len(client.client_list()) == before, "the connection's end")


def test_a_new_run_begins_anew(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: told by a piece with `restart` where something was given out; what is left over adds nothing."""
    first = add(0)
    pieces = follow(app, settings(), TASK, timeout_s=LIMIT_S)
    second = add(0)
    add(second, 0, "half an ans")
    assert next(pieces) == Piece("half an ans")
    third = add(0)
    assert next(pieces) == Piece(restart=True)
    client.xadd(keys.stream(TASK), {"run": first, "at": 0, "text": "left over"})
    client.xadd(keys.stream(TASK), {"run": third, "at": 0, "text": "the answer"})
    succeed("the answer")
    assert list(pieces) == [Piece("the answer")]


def test_a_slow_reader_misses_nothing(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: what the stream let go comes from the result."""
    words = [f"{i:<100}" for i in range(40)]
    run = add(0, text=words[0])
    pieces = follow(app, settings(), TASK, timeout_s=LIMIT_S)
    assert next(pieces) == Piece(words[0])
    for i, word in enumerate(words[1:], 1):
        add(run, i * 100, word)
    succeed("".join(words))
    finish(client, run, 4000, keep_text=True)
    assert list(pieces) == [Piece("".join(words[1:]))]


def test_a_reader_that_comes_late(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: the whole text from the result, also when its stream has expired."""
    run = add(0, text="one")
    succeed("one", thinking="hm")
    finish(client, run, 3)
    assert list(follow(app, settings(), TASK)) == [Piece("one", "hm")]
    client.delete(keys.stream(TASK))
    began = time.monotonic()
    assert list(follow(app, settings(), TASK)) == [Piece("one", "hm")]
    assert time.monotonic() - began < following.CHECK_EVERY_S


def test_a_task_that_says_nothing(client: redis.Redis):
    """Any task can be followed to its end."""
    app.backend.store_result(TASK, [1, 2], states.SUCCESS)
    assert list(mesh.stream(TASK)) == []


def test_what_ended_otherwise_is_raised(client: redis.Redis, add: Callable[..., int]):
    """Issue 4 §2: what `get` raises, after what was said; found also where nothing was there to say the end."""
    add(0, text="one")
    pieces = follow(app, settings(), TASK, timeout_s=LIMIT_S)
    assert next(pieces) == Piece("one")
    threading.Timer(0.2, lambda: app.backend.mark_as_revoked(TASK, "cancelled")).start()
    began = time.monotonic()
    with pytest.raises(TaskRevokedError):
        next(pieces)
    assert time.monotonic() - began < 2 * following.CHECK_EVERY_S
    app.backend.store_result("other", BrokerUnavailable("no"), states.FAILURE)
    with pytest.raises(BrokerUnavailable, match="no"):
        list(follow(app, settings(), "other"))


def test_an_unknown_task_is_waited_for(client: redis.Redis):
    """Issue 4 §2: as `get` does, until the timeout."""
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"nobody has not ended after 0\.3 s"):
        list(mesh.stream("nobody", timeout=0.3))
    assert time.monotonic() - began > 0.25


@pytest.mark.parametrize("task", ["", 7, None])
def test_what_is_no_task_is_refused(task: object):
    """Issue 2, Bad input: at the call."""
    with pytest.raises(InvalidTask, match="a task's id"):
        mesh.stream(task)


def test_a_task_does_not_wait_for_another_one(client: redis.Redis):
    """As with `get`: with one job per device both would stand still; a task that knows better says so."""
    with denied_join_result():
        with pytest.raises(RuntimeError, match="within a task"):
            mesh.stream(TASK)
        with allow_join_result():
            mesh.stream(TASK)


def test_a_task_that_keeps_no_result(client: redis.Redis, add: Callable[..., int]):
    """`ignore_result`: the stream is all there is; a hole in it is said."""
    run = add(0, text="one")
    finish(client, run, 3, keep_text=True)
    assert list(follow(app, settings(), TASK, timeout_s=LIMIT_S)) == [Piece("one")]
    add(run := add(0), 500, "late")
    finish(client, run, 504, keep_text=True)
    with pytest.raises(StreamIncomplete, match="more than its stream holds"):
        list(follow(app, settings(), TASK, timeout_s=LIMIT_S))
    finish(client, add(0), 0, states.FAILURE)
    with pytest.raises(StreamIncomplete, match="ended as FAILURE"):
        list(follow(app, settings(), TASK, timeout_s=LIMIT_S))


def test_writer_and_reader_together(client: redis.Redis):
    """Issue 4 §2: thousands of tokens arrive whole, in order, in far fewer entries."""
    tokens = [f"token{number} " for number in range(5000)]
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(whole(mesh.stream(TASK, timeout=LIMIT_S))))
    reader.start()
    with StreamWriter(TASK, put_to_redis(TASK, {}), max_bytes=1_000_000) as out:
        for number, token in enumerate(tokens):
            out.write(token)
            if number % 1000 == 0:
                # The reader reads while more is written.
                sent = client.xlen(keys.stream(TASK))
                wait_for(lambda sent=sent: client.xlen(keys.stream(TASK)) > sent, "another entry")
    entries = client.xlen(keys.stream(TASK))
    succeed("".join(tokens))
    end_stream(out, states.SUCCESS, keep_text=False)
    reader.join(LIMIT_S)
    assert got == ["".join(tokens)]
    assert entries < 500
    assert client.xlen(keys.stream(TASK)) == 1
    assert 0 < client.pttl(keys.stream(TASK)) <= 1000 * streaming.LINGER_S


# In a terminal


def wait_stream(*args: str) -> Any:
    return CliRunner().invoke(root, ["wait", "--stream", *args])


def test_an_answer_that_begins_anew_in_a_terminal(client: redis.Redis):
    """Issue 4 §2: said on standard error, and a new line; what a model thinks goes there too."""
    for run, text in ((1, "half an ans"), (2, "the answer")):
        client.xadd(keys.stream(TASK), {"run": run, "at": 0, "text": text})
    succeed("the answer", thinking="hm")
    ran = wait_stream(TASK)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "half an ans\nthe answer\n", f"{BEGINS_ANEW}\nhm")


def test_pieces_as_json_lines(client: redis.Redis):
    """For programs: each piece a line, an error the last one."""
    client.xadd(keys.stream(TASK), {"run": 1, "at": 0, "text": "one"})
    app.backend.store_result(TASK, ValueError("broken"), states.FAILURE)
    ran = wait_stream(TASK, "--json")
    piece, error = map(json.loads, ran.stdout.splitlines())
    assert piece == {"text": "one", "thinking": "", "restart": False}
    assert error == {"task_id": TASK, "state": "FAILURE", "error": "ValueError: broken"}
    assert ran.exit_code == 1


def test_what_says_nothing_is_printed_whole(client: redis.Redis):
    """Of another task the result, so that nothing is lost; too long a wait is exit code 4."""
    app.backend.store_result(TASK, [1, 2], states.SUCCESS)
    assert json.loads(wait_stream(TASK).stdout) == [1, 2]
    ran = wait_stream("nobody", "--timeout", "0.2")
    assert (ran.exit_code, ran.stdout) == (4, "")
    assert "nobody: still PENDING after 0.2 s" in ran.stderr


def test_redis_away_for_the_reader(tmp_path: Any, redis_server: object):
    """Issue 4 §2: back in time it goes on where it was; else BrokerUnavailable, and at once where it begins so."""
    with running(RedisServer(tmp_path / "redis")) as server:
        current = Settings(broker_url=server.url, _env_file=None)
        with server.client() as client:
            run = streams.add(client, TASK, run=0, at=0, text="one ", claim={}, max_bytes=1000, expires_s=60)
        pieces = follow(app, current, TASK, timeout_s=LIMIT_S)
        assert next(pieces) == Piece("one ")
        server.stop()

        def come_back() -> None:
            server.start()
            with server.client() as again:
                streams.add(again, TASK, run=run, at=4, text="two", claim={}, max_bytes=1000, expires_s=60)

        back = threading.Timer(0.3, come_back)  # the reader has met its absence by then
        back.start()
        assert next(pieces) == Piece("two")
        back.join()
        impatient = follow(app, current, TASK, timeout_s=LIMIT_S, away_s=0.5)
        assert [next(impatient), next(impatient)] == [Piece("one "), Piece("two")]
        server.stop()
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            next(impatient)
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            follow(app, current, TASK)
