"""Tasks over HTTP: sent, followed, listed, taken back (SPEC A1, P1, R4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from fastapi.testclient import TestClient
from rest import served

from gpu_mesh.domain.claim import Rules
from gpu_mesh.domain.queues import GPU_QUEUES, list_names
from gpu_mesh.services import lookup, task_lists
from gpu_mesh.settings import settings
from gpu_mesh.store import availability, keys, queues
from gpu_mesh.store.availability import Outage
from gpu_mesh.store.client import connect
from gpu_mesh.tasks.probe import probe

pytestmark = [
    pytest.mark.usefixtures("broker"),
    pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def api(empty_redis: object) -> Iterator[TestClient]:
    with served() as client:
        yield client


@pytest.fixture
def client(broker: str) -> Iterator[redis.Redis]:
    with connect(settings()) as found:
        yield found


def submit(api: TestClient, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return api.post("/tasks/submit", json={"task_type": "test", **body}, headers=headers)


def sent(api: TestClient, **body: Any) -> str:
    answer = submit(api, **body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["task_id"])


def messages(client: redis.Redis) -> list[str]:
    """Ids of all messages that wait."""
    lists = [name for queue in GPU_QUEUES for name in list_names(queue)]
    return [json.loads(raw)["headers"]["id"] for name in lists for raw in client.lrange(name, 0, -1)]


class TestSubmit:
    def test_the_orders_shape(self, api: TestClient, client: redis.Redis) -> None:
        """A1: {task_type, requirements, priority} → {task_id}; P1: free fields travel."""
        needs = {"memory_gb": 6, "gpu_type": "RTX 4090", "labels": {"trust": "owned"}, "epochs": 3}
        answer = submit(api, args=[1], requirements=needs, priority=8, business="customer")
        assert answer.status_code == 201
        told = answer.json()
        assert (told["state"], told["queue"], told["priority"]) == ("WAITING", "customer", 8)
        assert answer.headers["Location"] == told["status_url"] == f"/tasks/{told['task_id']}"
        found = queues.find(client, "customer", told["task_id"])
        assert found is not None
        assert {**found.mesh["needs"], **found.mesh["needs"].get("extra", {})}.items() >= needs.items()

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"task_type": "nothing"}, "task_type"),
            ({"task_type": "mesh.tidy"}, "task_type"),
            ({"task_type": "celery.backend_cleanup"}, "task_type"),
            ({"args": [1, 2]}, "args"),
            ({"kwargs": {"secs": 3}}, "args"),
            ({"priority": 11}, "priority"),
            ({"priority": "5"}, "priority"),
            ({"business": "charity"}, "business"),
            ({"queue": "nowhere"}, "queue"),
            ({"requirements": {"memory_gb": -1}}, "requirements.memory_gb"),
            ({"requirements": {"gpu_type": ""}}, "requirements.gpu_type"),
            ({"preemptible": "perhaps"}, "preemptible"),
            ({"countdown": 1, "eta": "2030-01-01T00:00:00Z"}, "countdown"),
            ({"eta": "2030-01-01T00:00:00"}, "eta"),
            ({"expires": 0}, "expires"),
            ({"wait": -1}, "wait"),
            ({"colour": "red"}, "colour"),
            ({"args": ["\ud800"]}, "args"),
            ({"task_type": "llm_inference"}, "args.prompt"),
            ({"task_type": "llm_inference", "args": ["Why?"], "kwargs": {"model": 5}}, "kwargs.model"),
            ({"task_type": "llm_inference", "args": ["Why?"], "kwargs": {"options": {"top_p": 9}}}, "kwargs.options"),
        ],
    )
    def test_what_is_wrong_is_named_and_not_sent(
        self, api: TestClient, client: redis.Redis, body: dict[str, Any], field: str
    ) -> None:
        answer = api.post(
            "/tasks/submit",
            content=json.dumps({"task_type": "test", **body}),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422, answer.text
        problem = answer.json()
        assert field in problem["detail"]
        assert messages(client) == []

    @pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[" * 70 + "]" * 70, "[" * 100_000, "1" * 5000])
    def test_json_that_nobody_could_read_on(self, api: TestClient, client: redis.Redis, text: str) -> None:
        body = f'{{"task_type": "test", "args": [{text}]}}'
        answer = api.post("/tasks/submit", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert messages(client) == []

    def test_too_large(self, api: TestClient) -> None:
        limit = int(settings().max_payload_mb * 1_000_000)
        assert submit(api, args=["x" * limit]).status_code == 413

    def test_nobody_can_do_realtime_work(self, api: TestClient, client: redis.Redis) -> None:
        """R4: 503 with Retry-After; the key is free again."""
        availability.tell(client, Outage(0.0, "no device is there"), 20.0)
        from gpu_mesh.celery import app

        app._checked_at = float("-inf")
        answer = submit(api, "r4")
        assert answer.status_code == 503, answer.text
        assert answer.headers["Retry-After"] == "15"
        assert "AI service temporarily unavailable" in answer.json()["detail"]
        assert (answer.json()["sent"], answer.json()["unsure"]) == ([], [])
        client.delete(keys.OUTAGE)
        assert "Idempotent-Replayed" not in submit(api, "r4", args=["another"]).headers

    def test_a_full_redis(self, api: TestClient, client: redis.Redis) -> None:
        """503 that names it; the key is free again."""
        late = sent(api, countdown=600)
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", 1)
        try:
            answers = [submit(api, "full"), submit(api)]
            assert api.delete(f"/tasks/{late}").status_code == 503  # that it was taken back cannot be kept
            assert api.get(f"/tasks/{late}").json()["state"] == "DELAYED"
        finally:
            client.config_set("maxmemory", before)
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all("is full" in answer.json()["detail"] for answer in answers)
        answer = submit(api, "full", args=["another"])
        assert (answer.status_code, "Idempotent-Replayed" in answer.headers) == (201, False)
        assert messages(client) == [answer.json()["task_id"]]


class TestKeys:
    def test_the_same_request_is_one_task(self, api: TestClient, client: redis.Redis) -> None:
        """Within a day; how long it waits may differ."""
        first, second = submit(api, "order-1", args=[1]), submit(api, "order-1", args=[1], wait=0)
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert "Idempotent-Replayed" not in first.headers
        assert second.headers["Idempotent-Replayed"] == "true"
        assert messages(client) == [first.json()["task_id"]]
        (name,) = client.keys(keys.reservation("*"))
        assert 86_000 < client.ttl(name) <= 86_400

    def test_another_request_is_refused(self, api: TestClient, client: redis.Redis) -> None:
        submit(api, "order-1", args=[1])
        answer = submit(api, "order-1", args=[2])
        assert answer.status_code == 422
        assert answer.json()["type"].endswith("idempotency-key-reused")
        assert len(messages(client)) == 1

    def test_many_at_once_send_one(self, api: TestClient, client: redis.Redis) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: submit(api, "storm"), range(24)))
        assert {answer.status_code for answer in answers} == {201}
        assert {answer.json()["task_id"] for answer in answers} == set(messages(client))
        assert len(messages(client)) == 1

    def test_what_was_given_up_is_not_sent_late(self, api: TestClient, client: redis.Redis) -> None:
        """A message on its way while its reservation is given up is dropped: a new one has another id."""
        from gpu_mesh.celery import app
        from gpu_mesh.store import reservations

        found = reservations.reserve(client, "n", "digest", ["late"])
        assert reservations.give_up(client, found)
        headers = {reservations.SENDING: found.to_header("late")}
        app.tasks["test"].apply_async([], task_id="late", headers=headers)
        assert messages(client) == []
        assert not reservations.confirm(client, found)

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256, "tab\t"])
    def test_what_is_no_key(self, api: TestClient, key: str) -> None:
        assert submit(api, key).status_code == 422


class TestBatch:
    @pytest.mark.parametrize(
        ("wrong", "field"),
        [
            ({"priority": 11}, "priority"),
            ({"requirements": {"gpu_count": 99}}, "requirements.gpu_count"),
            ({"task_type": "llm_inference", "kwargs": {"prompt": 5}}, "kwargs.prompt"),
        ],
    )
    def test_all_or_nothing(self, api: TestClient, client: redis.Redis, wrong: dict[str, Any], field: str) -> None:
        good = {"task_type": "test"}
        answer = api.post("/tasks/batch", json={"tasks": [good, {**good, **wrong}]})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, f"tasks.1.{field}")
        assert messages(client) == []

    def test_in_order_and_once(self, api: TestClient, client: redis.Redis) -> None:
        body, headers = {"tasks": [{"task_type": "test", "args": [n]} for n in range(5)]}, {"Idempotency-Key": "b"}
        first, second = (api.post("/tasks/batch", json=body, headers=headers) for _ in range(2))
        ids = first.json()["task_ids"]
        assert (second.json()["task_ids"], second.headers["Idempotent-Replayed"]) == (ids, "true")
        assert messages(client)[::-1] == ids

    def test_what_was_not_sent_is_sent_later(self, api: TestClient, client: redis.Redis) -> None:
        """Realtime work is refused half way: the problem lists what was sent, and the same key sends the rest."""
        from gpu_mesh.celery import app

        availability.tell(client, Outage(0.0, "no device is there"), 20.0)
        app._checked_at = float("-inf")
        tasks = [{"task_type": "test", "business": "customer"}, {"task_type": "test"}, {"task_type": "test"}]
        body, headers = {"tasks": tasks}, {"Idempotency-Key": "half"}
        answer = api.post("/tasks/batch", json=body, headers=headers)
        assert (answer.status_code, answer.json()["sent"]) == (503, messages(client))
        client.delete(keys.OUTAGE)
        ids = api.post("/tasks/batch", json=body, headers=headers).json()["task_ids"]
        assert ids[:1] == answer.json()["sent"]
        assert sorted(messages(client)) == sorted(ids)


class TestOne:
    def test_its_place_is_that_of_the_list_of_work(self, api: TestClient, client: redis.Redis) -> None:
        """As `gpu-mesh tasks` has it, by bands and ages: the index's ages are moved for that."""
        ids = [sent(api, args=[n], priority=n % 11, business="internal") for n in range(30)]
        for index, name in enumerate(["internal", "internal:6"]):
            for raw in client.lrange(name, 0, 3):
                age(client, name, raw, Rules().horizon_s * (0.3 + index))
        expected = {task.id: task.position for task in lookup.waiting_tasks(settings(), "internal")}
        assert {task_id: api.get(f"/tasks/{task_id}").json()["position"] for task_id in ids} == expected

    def test_delayed_and_strangers(self, api: TestClient, client: redis.Redis) -> None:
        late = sent(api, countdown=600)
        found = api.get(f"/tasks/{late}").json()
        assert (found["state"], found["position"]) == ("DELAYED", None)
        assert found["due_at"] > found["sent_at"] + 599
        listed = api.get("/tasks/active").json()["tasks"][late]
        assert (listed["sent_at"], listed["due_at"]) == (found["sent_at"], found["due_at"])
        raw = json.dumps({"headers": {"id": "theirs", "task": "old.task"}, "properties": {"delivery_tag": "t"}})
        client.lpush("internal:6", raw)
        assert api.get("/tasks/theirs").json()["name"] == "old.task"

    def test_unknown(self, api: TestClient) -> None:
        assert api.get("/tasks/nothing").status_code == 404
        assert api.get("/tasks/nothing", params={"wait": 20}).status_code == 404

    def test_cancelled(self, api: TestClient, client: redis.Redis) -> None:
        for body in ({}, {"countdown": 600}):
            path = f"/tasks/{sent(api, **body)}"
            assert api.delete(path).json()["was"] == "waiting"
            assert (api.get(path).json()["state"], api.delete(path).status_code) == ("REVOKED", 409)
        assert messages(client) == []
        assert api.delete("/tasks/later").json() == {"task_id": "later", "was": "unknown", "state": None}

    def test_progress_and_odd_results(self, api: TestClient) -> None:
        """What others wrote is told as JSON, whatever it is."""
        from gpu_mesh.celery import app

        task_id = sent(api)
        app.backend.store_result(task_id, {"done": 2, "total": 8}, "PROGRESS")
        assert api.get(f"/tasks/{task_id}").json()["progress"] == {"done": 2, "total": 8}
        for value in ({"a": "\ud800"}, [float("nan")], "x" * 5000, {"deep": [[[]]]}):
            app.backend.store_result("odd", value, "SUCCESS")
            answer = api.get("/tasks/odd")
            assert (answer.status_code, answer.json()["ended"]) == (200, True)
            app.backend.forget("odd")

    def test_in_the_instant_of_its_end(self, api: TestClient, client: redis.Redis) -> None:
        """Its result is there, and its worker has not yet written down that it ended: who waits for it asks then."""
        from gpu_mesh.celery import app

        task_id = sent(api, priority=8, requirements={"memory_gb": 1})
        name = next(name for queue in GPU_QUEUES for name in list_names(queue) if client.llen(name))
        claim = "\t".join([name, "1000000", "", "1", "", "1", "2000000", "", task_id])
        client.hset(keys.claims("gpu0@desk"), mapping={"tag": claim, "=tag": client.lpop(name)})
        client.zadd(keys.LEASES, {"gpu0@desk": 4e12})
        app.backend.store_result(task_id, "done", "SUCCESS")
        told = api.get(f"/tasks/{task_id}").json()
        assert (told["state"], told["ended"], told["result"]) == ("SUCCESS", True, "done")
        assert (told["worker"], told["priority"], told["started_at"]) == ("gpu0@desk", 8, 2.0)
        assert told["requirements"]["memory_gb"] == 1
        assert told["sent_at"] > 2.0

    def test_when_it_has_ended(self, api: TestClient, client: redis.Redis) -> None:
        """What its workers wrote down tells how it came there."""
        from gpu_mesh.celery import app

        task_id = sent(api)
        client.delete(*(name for queue in GPU_QUEUES for name in list_names(queue)))
        app.backend.store_result(task_id, "done", "SUCCESS")
        entry = {"id": task_id, "name": "test", "tag": "t", "deliveries": 2, "needs": {"memory_gb": 1.0}}
        client.lpush(keys.FINISHED, json.dumps({**entry, "state": "SUCCESS"}))
        client.set(keys.preempted("t"), 3)
        told = api.get(f"/tasks/{task_id}").json()
        assert (told["deliveries"], told["preemptions"], told["requirements"]) == (2, 3, {"memory_gb": 1.0})


def age(client: redis.Redis, name: str, raw: str, seconds: float) -> None:
    """Have a waiting message be older: in its header, and in the index."""
    envelope = json.loads(raw)
    envelope["headers"]["mesh"]["sent_at"] -= seconds
    client.lset(name, client.lrange(name, 0, -1).index(raw), json.dumps(envelope))
    for group in client.keys(f"{keys.PREFIX}group:*|{name}"):
        for member, at in client.zrange(group, 0, -1, withscores=True):
            head, _, *rest = member.split(" ")
            if rest[-1] == envelope["headers"]["id"]:
                client.zrem(group, member)
                client.zadd(group, {" ".join([head, f"{at - seconds * 1e6:.0f}", *rest]): at - seconds * 1e6})


class TestLists:
    def test_a_page_at_a_time_while_tasks_come_and_go(self, api: TestClient, client: redis.Redis) -> None:
        """Whatever is there from the first page to the last is on one."""
        ids = {sent(api, args=[n], priority=n % 11, business=("revenue", "internal")[n % 2]) for n in range(40)}
        ids |= {sent(api, countdown=600 + n) for n in range(10)}
        seen: set[str] = set()
        params: dict[str, Any] = {"limit": 7}
        gone = []
        while True:
            page = api.get("/tasks/active", params=params).json()
            assert len(page["tasks"]) <= 7
            seen |= page["tasks"].keys()
            if page["next"] is None:
                break
            params["cursor"] = page["next"]
            sent(api, business="internal")
            if left := sorted(set(messages(client)) & ids - seen):
                gone.append(left[0])
                assert api.delete(f"/tasks/{left[0]}").json()["was"] == "waiting"
        assert gone
        assert ids - set(gone) <= seen

    def test_all_and_filters(self, api: TestClient) -> None:
        batch, late = [sent(api) for _ in range(3)], sent(api, business="customer", countdown=600)
        told = api.get("/tasks/active").json()
        assert (told["tasks"].keys(), told["total"], told["next"]) == ({*batch, late}, 4, None)
        assert told["tasks"][late]["state"] == "DELAYED"
        assert told["tasks"][late]["sent_at"] == api.get(f"/tasks/{late}").json()["sent_at"]
        for params in ({"queue": "customer"}, {"state": "DELAYED"}, {"ids": f"{late},nothing"}):
            assert api.get("/tasks/active", params=params).json()["tasks"].keys() == {late}
        assert api.get("/tasks/active", params={"name": "other"}).json()["tasks"] == {}

    @pytest.mark.parametrize("countdown", [0, 600])
    @pytest.mark.parametrize("ahead", [0, 2])
    def test_a_task_that_is_tried_again_while_the_list_is_read(
        self, api: TestClient, client: redis.Redis, countdown: int, ahead: int
    ) -> None:
        """A client that polls until its id is gone must not take it for ended (SPEC A1): it waits, is claimed
        before the lists are read, fails, and comes again after they were."""
        for n in range(ahead):
            sent(api, args=[n], business="internal")
        moving = sent(api, business="internal", args=["moving"])
        reads: list[str] = []

        class Moving:
            """Redis, in which the task runs from when the delayed ones were read till when all lists were."""

            def __getattr__(self, name: str) -> Any:
                return getattr(client, name)

            def zrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
                found = client.zrangebyscore(*args, **kwargs)
                if not reads:
                    (message,) = [one for one in queues.waiting(client, "internal") if one.id == moving]
                    assert queues.remove(client, message)
                reads.append("delayed")
                return found

            def zrange(self, *args: Any, **kwargs: Any) -> Any:
                if reads and reads[-1] == "delayed" and args[0] == keys.LEASES:
                    reads.append("running")
                    probe.apply_async(["moving"], task_id=moving, countdown=countdown, business="internal")
                return client.zrange(*args, **kwargs)

        page = task_lists.active(Moving(), settings(), task_lists.Filter(), None)
        assert reads[:2] == ["delayed", "running"]
        assert moving in page.rows

    def test_what_waits_is_searched_once_for_all_that_are_named(self, api: TestClient, client: redis.Redis) -> None:
        """A client that asks for what is long gone must not have Redis read the backlog for each of them."""
        first, *ids = (sent(api, args=[n]) for n in range(5))

        def searches(named: list[str]) -> int:
            client.config_resetstat()
            found = api.get("/tasks/active", params={"ids": ",".join(named)}).json()["tasks"]
            assert set(found) == set(named) & {first, *ids}
            return int(client.info("commandstats")["cmdstat_zscan"]["calls"])

        one = searches(["gone", first])
        assert searches([f"gone-{n}" for n in range(40)] + ids) == one

    def test_what_ended_is_gone_and_in_the_other_list(self, api: TestClient, client: redis.Redis) -> None:
        """Newest first, by page, while more end."""
        for n in range(10):
            end(client, n)
        end(client, 99, name="mesh.tidy")
        first = api.get("/tasks/completed", params={"limit": 4}).json()
        assert list(first["tasks"]) == ["t9", "t8", "t7", "t6"]
        assert first["tasks"]["t9"]["ended_at"] == 1009.5
        end(client, 10)
        second = api.get("/tasks/completed", params={"limit": 4, "cursor": first["next"]}).json()
        assert list(second["tasks"]) == ["t5", "t4", "t3", "t2"]
        assert list(api.get("/tasks/completed", params={"since": 1008}).json()["tasks"]) == ["t10", "t9", "t8"]
        assert list(api.get("/tasks/completed", params={"state": "FAILURE"}).json()["tasks"]) == ["t0"]

    @pytest.mark.parametrize(
        "cursor", ["", "x", "ÿ", "WyJhIl0", "W10", "WyJydW5uaW5nIiwgNV0", "WyJ3YWl0aW5nIiwgMWU5OSwgMV0"]
    )
    @pytest.mark.parametrize("which", ["active", "completed"])
    def test_what_is_no_cursor(self, api: TestClient, which: str, cursor: str) -> None:
        answer = api.get(f"/tasks/{which}", params={"cursor": cursor})
        assert (answer.status_code, "cursor" in answer.json()["detail"]) == (422, True)


def end(client: redis.Redis, number: int, name: str = "test") -> None:
    """A run that ended."""
    entry = {"id": f"t{number}", "name": name, "queue": "internal", "priority": 5, "worker": "gpu0@n"}
    times = {"started_at": 1000.0 + number, "ran_s": 0.5, "state": "SUCCESS" if number else "FAILURE"}
    client.lpush(keys.FINISHED, json.dumps({**entry, **times}))
