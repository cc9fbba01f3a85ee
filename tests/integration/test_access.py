"""Who is let in, and what is refused before a route sees it (SPEC A1; issue 7 §2)."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest
from fastapi import Request, Response
from rest import served

from gpu_mesh.api.access import still_in
from gpu_mesh.api.bodies import DEEPEST, largest
from gpu_mesh.api.gatekeeper import FAILED_AT_ONCE
from gpu_mesh.services import tokens
from gpu_mesh.settings import settings
from gpu_mesh.store.client import connect

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
OPEN = ("/", "/health", "/openapi.json")
#: Answered by a route of the role `read`; and one that a body is sent to, of `admin`.
READ, CHANGE = "/queues", "/queues/ai-batch/pause"
JSON = {"Content-Type": "application/json"}


def _bearer(*roles, name="someone"):
    return {"Authorization": f"Bearer {tokens.create(settings(), name, roles)[1]}"}


def _is_problem(found, status, kind):
    assert found.status_code == status, found.text
    assert found.headers["content-type"] == "application/problem+json"
    assert found.json()["type"] == f"urn:gpu-mesh:problem:{kind}"
    assert found.headers["x-content-type-options"] == "nosniff"
    return True


@pytest.fixture
def rest(broker):
    with served() as found:
        yield found


@pytest.fixture
def shut(broker):
    """An API for which a token is needed."""
    tokens.create(settings(), "first", ["read"])
    with served() as found:
        yield found


class TestWithoutTokens:
    def test_everybody_of_this_machine_is_let_in(self, rest):
        assert rest.get(READ).status_code == 200
        assert rest.post(CHANGE).status_code == 200

    @pytest.mark.parametrize("host", ["localhost", "localhost:8001", "127.0.0.1", "[::1]:8001", "127.9.9.9:1"])
    def test_names_of_loopback(self, rest, host):
        assert rest.get(READ, headers={"Host": host}).status_code == 200

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:8001", "127.0.0.1.evil.example", "10.0.0.1", "",
                                      "[", "localhost.evil.example", "evil.example@", "8.8.8.8#localhost"])  # fmt: skip
    def test_a_name_that_was_made_to_lead_here(self, rest, host):
        """DNS rebinding: a page's own name leads to 127.0.0.1."""
        assert _is_problem(rest.get(READ, headers={"Host": host}), 403, "foreign-host")

    def test_as_soon_as_there_is_a_token_one_is_needed(self, broker):
        header = _bearer("read")
        with served() as rest:
            assert _is_problem(rest.get(READ), 401, "unauthorized")
            assert rest.get(READ, headers={**header, "Host": "mesh.example.com"}).status_code == 200

    def test_when_the_last_one_is_gone_nobody_is_let_in(self, broker):
        _bearer("read")
        tokens.revoke(settings(), "someone")
        with served() as rest:
            assert _is_problem(rest.get(READ), 401, "unauthorized")
        tokens.open_again(settings())
        with served() as rest:
            assert rest.get(READ).status_code == 200

    @pytest.mark.parametrize("listen", ["0.0.0.0", "::", "192.0.2.1"])
    def test_elsewhere_one_is_always_needed(self, broker, listen):
        tokens.create(settings(), "first", ["read"])
        tokens.revoke(settings(), "first")
        tokens.open_again(settings())
        with served(api_listen=listen) as rest:
            assert _is_problem(rest.get(READ), 401, "unauthorized")


class TestTokens:
    def test_what_is_open_to_all(self, shut):
        assert [shut.get(path).status_code for path in OPEN] == [200] * len(OPEN)
        assert shut.get("/ready").status_code in (200, 503)

    @pytest.mark.parametrize(
        "given",
        [
            "Bearer ",
            "Bearer x",
            "Basic eDp5",
            "gpumesh_0123456789_" + "0" * 64,
            "Bearer gpumesh_0123456789_" + "0" * 64,
        ],
    )
    def test_bad_ones(self, shut, given):
        found = shut.get(READ, headers={"Authorization": given})
        assert _is_problem(found, 401, "unauthorized")
        assert found.headers["www-authenticate"].startswith("Bearer ")

    def test_two_at_once_are_none(self, shut):
        good = _bearer("read")["Authorization"]
        headers = [("Authorization", good), ("Authorization", good)]
        assert shut.get(READ, headers=headers).status_code == 401

    def test_no_body_of_a_stranger_is_read(self, shut):
        """Not even looked at: it is no JSON, of another kind, and too large."""
        found = shut.post(CHANGE, content=b"[" * (largest(settings()) + 1), headers={"Content-Type": "text/plain"})
        assert _is_problem(found, 401, "unauthorized")

    def test_one_that_is_over(self, shut):
        made, shown = tokens.create(settings(), "short", ["read"], "1s")
        with connect(settings()) as client:  # as if that second had passed
            words = client.hget("gpumesh:tokens", made.id).replace(str(made.expires), str(made.created))
            client.hset("gpumesh:tokens", made.id, words)
        assert _is_problem(shut.get(READ, headers={"Authorization": f"Bearer {shown}"}), 401, "unauthorized")

    @pytest.mark.parametrize("change", ["revoke", "the first one is made"])
    def test_who_listens_is_turned_out(self, broker, change):
        """Whoever would not be let in any more hears nothing more."""
        header = _bearer("read", name="listener") if change == "revoke" else {}
        with served() as rest:

            @rest.app.get("/long")
            async def long(request: Request) -> bool:
                was_in = await still_in(request.scope)
                if change == "revoke":
                    await asyncio.to_thread(tokens.revoke, settings(), "listener")
                else:
                    await asyncio.to_thread(tokens.create, settings(), "first", ["read"])
                async with asyncio.timeout(10):
                    while await still_in(request.scope):
                        await asyncio.sleep(0.01)
                return was_in

            assert rest.get("/long", headers=header).json() is True

    def test_the_last_use_is_kept(self, broker):
        header = _bearer("read")
        with served() as rest:
            rest.get(READ, headers=header)
            # Told with the next question to Redis: of another process, say.
            rest.app.state.known._at = float("-inf")
            rest.get(READ, headers=header)
        (listed,) = tokens.listed(settings())
        assert listed.used is not None
        assert listed.used >= listed.token.created

    def test_while_redis_is_away_nobody_is_told_that_his_token_is_wrong(self, free_port):
        with served(broker_url=f"redis://127.0.0.1:{free_port}/0") as rest:
            for headers in ({}, {"Authorization": "Bearer x"}):
                found = rest.get(READ, headers=headers)
                assert _is_problem(found, 503, "broker-unavailable")
                assert int(found.headers["retry-after"]) > 0
            assert rest.get("/health").status_code == 200

    def test_a_full_redis_turns_nobody_away(self, broker):
        """Whoever looks after the mesh must get in to see that it is full; and a token can be revoked."""
        header, other = _bearer("admin", name="ops"), _bearer("read", name="lost")
        with connect(settings()) as client, served() as rest:
            before = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", 1)
            try:
                found = [rest.get(path, headers=header) for path in (READ, "/mesh/status", "/tasks/active", "/alerts")]
                full = rest.post("/tasks/submit", json={"task_type": "test"}, headers=header)
                tokens.revoke(settings(), "lost")
            finally:
                client.config_set("maxmemory", before)
        assert [one.status_code for one in found] == [200] * 4
        assert (full.status_code, "is full" in full.json()["detail"]) == (503, True)
        with served() as rest:
            assert rest.get(READ, headers=other).status_code == 401


def _operations(rest):
    for path, operations in rest.get("/openapi.json").json()["paths"].items():
        for method, told in operations.items():
            roles = {role for one in told.get("security", []) for role in one["token"]}
            yield f"{method.upper()} {path}", roles, told


class TestRoles:
    def test_the_page_has_every_endpoint_and_its_roles(self, rest):
        """docs/api.md: a row that is missing is printed as it should stand there."""
        page = PAGE.read_text(encoding="utf-8")
        rows = set(re.findall(r"^\| `([A-Z]+ /\S*)` \| (.+?) \| .+ \|$", page, re.MULTILINE))
        found = {("GET /openapi.json", "everybody")}
        for operation, roles, _ in _operations(rest):
            others = ", ".join(role for role in ("submit", "read") if role in roles)
            found.add((operation, "everybody" if not roles else others or "admin only"))
        assert rows == found, "\n".join(f"| `{one}` | {roles} | … |" for one, roles in sorted(found - rows))

    def test_only_what_is_open_needs_no_role(self, rest):
        """A route that forgets to say whom it admits is found here."""
        free = {operation for operation, roles, _ in _operations(rest) if not roles}
        assert free == {"GET /", "GET /health", "GET /ready"}

    def test_what_guards_answer_is_documented(self, rest):
        for operation, _, told in _operations(rest):
            assert {"401", "403", "413", "415", "429", "503"} <= told["responses"].keys(), operation

    def test_a_role_that_is_not_admitted_gets_403_everywhere(self, shut):
        """Nothing is asked of a route that might wait or change something: only those refused are tried."""
        headers = {role: _bearer(role, name=role) for role in ("submit", "read")}
        tried = 0
        for operation, roles, _ in _operations(shut):
            method, _, path = operation.partition(" ")
            for role in headers.keys() - roles if roles else ():
                found = shut.request(method, re.sub(r"{\w+}", "x", path), headers=headers[role])
                assert _is_problem(found, 403, "forbidden"), operation
                assert f"{role} has {role}" in found.json()["detail"]
                assert "insufficient_scope" in found.headers["www-authenticate"]
                tried += 1
        assert tried >= 16

    def test_roles_add_up(self, shut):
        headers = _bearer("submit", "read")
        assert shut.get(READ, headers=headers).status_code == 200
        assert shut.post(CHANGE, headers=headers).status_code == 403

    def test_admin_may_all(self, shut):
        headers = _bearer("admin")
        assert shut.get(READ, headers=headers).status_code == 200
        assert shut.post(CHANGE, headers=headers).status_code == 200


class TestBrowsers:
    ORIGIN = "https://ops.example.com"

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "", "http://["])
    def test_pages_from_elsewhere(self, rest, origin):
        for method, path in (("GET", READ), ("POST", CHANGE), ("OPTIONS", READ), ("GET", "/health")):
            assert _is_problem(rest.request(method, path, headers={"Origin": origin}), 403, "foreign-origin")

    def test_our_own_pages(self, rest):
        assert rest.get(READ, headers={"Origin": "http://127.0.0.1:8001"}).status_code == 200

    def test_those_that_are_named(self, broker):
        header = _bearer("read")
        asks = {"Origin": self.ORIGIN, "Access-Control-Request-Method": "GET"}
        with served(api_origins=(self.ORIGIN,)) as rest:
            preflight = rest.options(READ, headers={**asks, "Access-Control-Request-Headers": "authorization"})
            assert preflight.status_code == 200
            assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
            for headers, status in (({}, 401), (header, 200)):
                found = rest.get(READ, headers={**headers, "Origin": self.ORIGIN})
                assert found.status_code == status
                assert found.headers["access-control-allow-origin"] in (self.ORIGIN, "*")
            assert _is_problem(rest.get(READ, headers={"Origin": "https://evil.example"}), 403, "foreign-origin")

    @pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                                      "application/json; charset=utf-16", "application/jsonx"])  # fmt: skip
    def test_bodies_that_a_page_may_send_unasked(self, rest, kind):
        found = rest.post(CHANGE, content=b"{}", headers={} if kind is None else {"Content-Type": kind})
        assert _is_problem(found, 415, "unsupported-media-type")

    @pytest.mark.parametrize(
        "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
    )
    def test_json(self, rest, kind):
        assert rest.post(CHANGE, content=b"{}", headers={"Content-Type": kind}).status_code == 200

    def test_what_every_answer_carries(self, rest):
        for path in ("/health", "/nowhere", READ):
            headers = rest.get(path).headers
            assert headers["cache-control"] == "no-store"
            assert headers["x-frame-options"] == "DENY"
            assert "server" not in headers


class TestBounds:
    def test_a_body_that_says_how_large_it_is(self, rest):
        found = rest.post(CHANGE, content=b"0" * (largest(settings()) + 1), headers=JSON)
        assert _is_problem(found, 413, "payload-too-large")

    def test_a_body_that_does_not(self, broker):
        with served(max_payload_mb=0.001) as rest:
            found = rest.post(CHANGE, content=(b" " * 10_000 for _ in range(101)), headers=JSON)
            assert _is_problem(found, 413, "payload-too-large")
            assert rest.post(CHANGE, content=(b" " * 10_000 for _ in range(99)), headers=JSON).status_code != 413

    @pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
    def test_depth(self, rest, opening, closing):
        for levels, kind in ((DEEPEST + 1, "bad-request"), (100_000, "bad-request")):
            body = opening * levels + b"1" + closing * levels
            assert _is_problem(rest.post(CHANGE, content=body, headers=JSON), 400, kind)
        body = opening * DEEPEST + b"1" + closing * DEEPEST
        assert rest.post(CHANGE, content=body, headers=JSON).status_code == 422

    @pytest.mark.parametrize("coding", ["utf-16", "utf-32"])
    def test_json_that_is_not_utf8(self, rest, coding):
        assert rest.post(CHANGE, content="{}".encode(coding), headers=JSON).status_code == 400

    def test_a_body_that_is_packed(self, rest):
        """What it would be unpacked nobody knows."""
        headers = {**JSON, "Content-Encoding": "gzip"}
        assert _is_problem(rest.post(CHANGE, content=b"\x1f\x8b", headers=headers), 415, "unsupported-media-type")

    def test_heads(self, rest):
        many, long = {f"X-{i}": "1" for i in range(101)}, {"X": "x" * 17_000}
        for headers in (many, long):
            assert _is_problem(rest.get(READ, headers=headers), 431, "request-header-fields-too-large")
        assert _is_problem(rest.get(f"/queues?a={'x' * 9000}"), 414, "uri-too-long")

    @pytest.mark.parametrize(
        "headers",
        [
            [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked"), ("Content-Length", "2")],
            [("Idempotency-Key", "a"), ("Idempotency-Key", "b")],
        ],
    )
    def test_what_each_reader_understands_in_his_own_way(self, rest, headers):
        """A proxy before it would see another request (RFC 9112 6.3); and which of two keys it is nobody knows."""
        assert _is_problem(rest.post(CHANGE, content=b"{}", headers=headers), 400, "bad-request")

    def test_it_sends_nobody_elsewhere(self, shut):
        """Behind a proxy that speaks TLS the way there would be in the clear, token and all."""
        assert _is_problem(shut.get(READ + "/", headers=_bearer("read")), 404, "not-found")

    def test_more_at_once_than_is_answered(self, broker):
        """Whoever watches the process is answered all the same."""
        with served(api_max_requests=0) as rest:
            found = rest.get(READ)
            assert _is_problem(found, 503, "busy")
            assert int(found.headers["retry-after"]) >= 1
            assert rest.get("/health").status_code == 200

    def test_more_than_a_token_may_ask(self, shut):
        one, other = _bearer("read", name="one"), _bearer("read", name="other")
        with served(api_rate=2.0) as rest:
            answers = [rest.get(READ, headers=one) for _ in range(12)]
            assert [found.status_code for found in answers[:4]] == [200] * 4
            refused = next(found for found in answers if found.status_code != 200)
            assert _is_problem(refused, 429, "too-many-requests")
            assert int(refused.headers["retry-after"]) >= 1
            assert rest.get(READ, headers=other).status_code == 200

    def test_an_error_of_our_own_shows_nothing_of_itself(self, broker, caplog):
        with served() as rest:

            @rest.app.get("/broken")
            def broken() -> None:
                raise RuntimeError("a secret")

            found = rest.get("/broken")
        assert _is_problem(found, 500, "internal")
        assert "secret" not in found.text
        assert "a secret" in caplog.text


class TestRecord:
    def _lines(self, caplog):
        return [record for record in caplog.records if record.__dict__.get("action") == "request"]

    def test_who_changed_what(self, shut, caplog):
        header = _bearer("admin", name="ops")
        with caplog.at_level(logging.INFO):
            shut.get(READ, headers=header)
            shut.post(CHANGE, headers=header)
            shut.post("/queues/nowhere/pause", headers=header)  # changes nothing: 404
        found = [(record.__dict__["user"], record.getMessage()) for record in self._lines(caplog)]
        assert found == [("ops", f"ops: POST {CHANGE}")]

    def test_a_task_that_is_sent_or_taken_back_is_named(self, broker, caplog):
        with served() as rest:

            @rest.app.post("/a", status_code=201)
            def sent(response: Response) -> None:
                response.headers["Location"] = "/tasks/abc"

            @rest.app.put("/tasks/{name}")
            def changed(name: str) -> None:
                pass

            with caplog.at_level(logging.INFO):
                rest.post("/a")
                rest.put("/tasks/a%0Ab")
        found = [(record.getMessage(), record.__dict__.get("task")) for record in self._lines(caplog)]
        assert found == [("local: POST /a task=abc", "abc"), ("local: PUT /tasks/a?b task=a?b", "a?b")]

    def test_tasks_that_are_sent_do_not_drown_the_rest(self, rest, caplog):
        """At hundreds a second they would: their lines are of the level DEBUG."""
        with caplog.at_level(logging.DEBUG):
            task = rest.post("/tasks/submit", json={"task_type": "test"}).json()["task_id"]
            rest.post("/tasks/batch", json={"tasks": [{"task_type": "test"}]})
            rest.delete(f"/tasks/{task}")
        found = [(record.levelno, record.getMessage()) for record in self._lines(caplog)]
        assert found == [
            (logging.DEBUG, f"local: POST /tasks/submit task={task}"),
            (logging.DEBUG, "local: POST /tasks/batch"),
            (logging.INFO, f"local: DELETE /tasks/{task} task={task}"),
        ]


class TestFailures:
    def test_who_guesses_is_held_back_and_logged(self, shut, caplog):
        guess = "gpumesh_0123456789_" + "5" * 64
        with caplog.at_level(logging.WARNING):
            statuses = [
                shut.get(READ, headers={"Authorization": f"Bearer {guess}"}).status_code
                for _ in range(int(FAILED_AT_ONCE) * 3)
            ]
        assert statuses[: int(FAILED_AT_ONCE)] == [401] * int(FAILED_AT_ONCE)
        assert 429 in statuses
        lines = [record for record in caplog.records if record.__dict__.get("action") == "refuse"]
        assert 0 < len(lines) < len(statuses)
        assert "refused GET '/queues' from testclient: this token is not known" in lines[0].getMessage()
        assert "5555" not in caplog.text
        # Whoever shares that address, behind a proxy, is let in.
        with served() as rest:
            assert rest.get(READ, headers=_bearer("read")).status_code == 200

    def test_a_path_forges_no_line_of_the_log(self, shut, caplog):
        with caplog.at_level(logging.WARNING):
            shut.get("/a%0ARefused%1b[2J")
        (line,) = [record for record in caplog.records if record.__dict__.get("action") == "refuse"]
        assert line.getMessage().isprintable()
