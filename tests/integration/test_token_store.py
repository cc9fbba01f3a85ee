"""Tokens in Redis: one of a name, hashed, found again; and what they close (issue 7 §2)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpu_mesh.domain.tokens import Role, known
from gpu_mesh.errors import InvalidSetting, InvalidValue
from gpu_mesh.services import tokens as service
from gpu_mesh.settings import settings
from gpu_mesh.store import keys
from gpu_mesh.store import tokens as store
from gpu_mesh.store.client import connect


@pytest.fixture
def client(broker):
    with connect(settings()) as found:
        yield found


def test_made_listed_and_revoked(client):
    made, shown = service.create(settings(), "shop", ["submit", "read"], "90d")
    (listed,) = service.listed(settings())
    assert listed.token == made
    assert made.roles == {Role.SUBMIT, Role.READ}
    assert made.expires == pytest.approx(made.created + 90 * 86_400)
    assert (listed.used, listed.is_over) == (None, False)
    book = store.book(client)
    assert known(book.tokens, shown, book.now) == made
    assert service.revoke(settings(), made.id) == (made, 0)
    assert service.listed(settings()) == []
    with pytest.raises(InvalidValue, match="no token of that name or id; there are: none"):
        service.revoke(settings(), "shop")


def test_nothing_in_redis_lets_anybody_in(client):
    """Issue 7 §2: hashed at rest."""
    _, shown = service.create(settings(), "shop", ["admin"])
    secret = shown.rpartition("_")[2]
    for key in client.scan_iter():
        held = client.hgetall(key) if client.type(key) == "hash" else client.get(key)
        assert secret not in str(held)
    assert "digest" not in service.listed(settings())[0].to_dict()


def test_secrets_differ(client):
    shown = {service.create(settings(), f"t{i}", ["read"])[1] for i in range(20)}
    assert len({one.rpartition("_")[2] for one in shown}) == 20
    assert all(len(one.rpartition("_")[2]) * 4 >= 256 for one in shown)


def test_of_many_who_ask_for_a_name_at_once_one_gets_it(client):
    def make(_):
        try:
            return service.create(settings(), "shop", ["read"])
        except InvalidValue:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [one for one in pool.map(make, range(8)) if one]
    assert len(made) == len(service.listed(settings())) == 1
    with pytest.raises(InvalidValue, match="there is a token of that name"):
        service.create(settings(), "shop", ["read"])


@pytest.mark.parametrize("expires", ["", "0s", "soon", "4000d", "-1d"])
def test_ends_that_are_refused(client, expires):
    with pytest.raises(InvalidValue, match="--expires"):
        service.create(settings(), "shop", ["read"], expires)


def test_what_is_closed_stays_so_until_somebody_opens_it(client):
    assert store.book(client).closed is None
    service.create(settings(), "shop", ["read"])
    assert store.book(client).closed is True
    with pytest.raises(InvalidValue, match="there are tokens"):
        service.open_again(settings())
    service.revoke(settings(), "shop")
    assert store.book(client).closed is True
    service.open_again(settings())
    assert store.book(client).closed is False


def test_what_is_broken_is_left_out_and_closes_all_the_same(client):
    made, _ = service.create(settings(), "shop", ["read"])
    client.delete(keys.TOKENS_NEEDED)
    for name, words in (("a", "{"), ("b", "[]"), ("c", json.dumps({**made.to_dict(), "roles": ["root"]}))):
        client.hset(keys.TOKENS, name, words)
    client.hset(keys.TOKENS, "d", json.dumps(made.to_dict()))  # under another's id
    book = store.book(client)
    assert book.tokens == {made.id: made}
    client.hdel(keys.TOKENS, made.id)
    assert store.book(client).closed is True


def test_uses_of_what_is_gone_are_not_kept(client):
    made, _ = service.create(settings(), "shop", ["read"])
    store.mark_used(client, [made.id, "gone"], 1234.0)
    assert store.used(client) == {made.id: 1234.0}
    assert service.listed(settings())[0].used == 1234.0
    service.revoke(settings(), "shop")
    store.mark_used(client, [made.id], 1235.0)
    assert store.used(client) == {}


class TestServedElsewhere:
    """Issue 7 §2: without any token the API serves loopback only."""

    @pytest.mark.parametrize("listen", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
    def test_loopback_needs_none(self, client, listen):
        service.check_served(settings().model_copy(update={"api_listen": listen}))

    @pytest.mark.parametrize("listen", ["0.0.0.0", "::", "192.0.2.1", "::ffff:127.0.0.1"])
    def test_others_need_one_to_be_made(self, client, listen):
        told = settings().model_copy(update={"api_listen": listen})
        with pytest.raises(InvalidSetting, match=r"GPU_MESH_API_LISTEN=.*gpu-mesh token create"):
            service.check_served(told)
        service.create(settings(), "shop", ["read"])
        service.check_served(told)
        # A mesh that starts again must not stay down for that; it lets nobody in.
        service.revoke(settings(), "shop")
        service.check_served(told)
        service.open_again(settings())
        with pytest.raises(InvalidSetting):
            service.check_served(told)

    def test_a_redis_that_is_away_keeps_nothing_from_starting(self, free_port):
        away = {"api_listen": "0.0.0.0", "broker_url": f"redis://127.0.0.1:{free_port}/0"}
        service.check_served(settings().model_copy(update=away))
