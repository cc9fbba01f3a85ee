"""Tasks over HTTP: sent, followed, taken back (SPEC A1, P1, R4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from rest import served

pytestmark = [pytest.mark.usefixtures("broker")]


@pytest.fixture
def api() -> Iterator[TestClient]:
    with served() as client:
        yield client


def test_a_task_is_sent_seen_and_taken_back(api: TestClient) -> None:
    answer = api.post("/tasks/submit", json={"task_type": "test", "args": [1], "business": "customer", "priority": 8})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["state"], told["queue"], told["priority"]) == ("WAITING", "customer", 8)
    assert answer.headers["Location"] == told["status_url"] == f"/tasks/{told['task_id']}"
    found = api.get(told["status_url"])
    assert found.status_code == 200, found.text
    print(found.json())
    again = api.get(told["status_url"])
    gone = api.delete(told["status_url"])
    print(gone.json())
    print(api.delete(told["status_url"]).json())
    print(api.get(told["status_url"]).json())
    print(api.get("/tasks/nix").json())
    print(api.post("/tasks/submit", json={"task_type": "test", "requirements": {"memory_gb": -1}}).json())
    print(api.post("/tasks/submit", json={"task_type": "test", "wait": 0.2}).json())
    r = api.post("/tasks/submit", json={"task_type": "test", "countdown": 20}, headers={"Idempotency-Key": "a"})
    print(r.headers, r.json())
    r = api.post("/tasks/submit", json={"task_type": "test", "countdown": 20}, headers={"Idempotency-Key": "a"})
    print(r.headers, r.json())
    print(api.get(r.json()["status_url"]).json())
    r = api.post("/tasks/submit", json={"task_type": "test", "countdown": 21}, headers={"Idempotency-Key": "a"})
    print(r.headers, r.json())
    r = api.post("/tasks/batch", json={"tasks": [{"task_type": "test"}] * 3}, headers={"Idempotency-Key": "b"})
    print(r.headers, r.json())
    r = api.post("/tasks/batch", json={"tasks": [{"task_type": "test"}] * 3}, headers={"Idempotency-Key": "b"})
    print(r.headers, r.json())
    r = api.post(
        "/tasks/batch",
        json={"tasks": [{"task_type": "test"}, {"task_type": "test", "requirements": {"memory_gb": -1}}]},
    )
    print(r.headers, r.json())


def test_lists(api: TestClient) -> None:
    api.post("/tasks/batch", json={"tasks": [{"task_type": "test", "priority": n % 11} for n in range(20)]})
    api.post("/tasks/submit", json={"task_type": "test", "countdown": 20})
    found = api.get("/tasks/active")
    assert found.status_code == 200, found.text
    told = found.json()
    print(list(told["tasks"].items())[:2], told["total"])
    seen, cursor = [], None
    while True:
        page = api.get("/tasks/active", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        seen += page["tasks"]
        if not (cursor := page["next"]):
            break
    print(len(seen), cursor)
    print(api.get("/tasks/active", params={"ids": ",".join(seen[:3])}).json())
    print(api.get("/tasks/active?cursor=xyz").json())
    print(api.get("/tasks/active?cursor=WyJhIl0").json())
    print(api.get("/tasks/completed").json())
