"""Tokens of the API: which are good, what they may do; rates; how deep JSON lies (issue 7 §2)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.nesting import is_deeper
from gpu_mesh.domain.rates import Rates
from gpu_mesh.domain.tokens import Role, Token, check_name, hidden, known, may, read_roles, written
from gpu_mesh.errors import InvalidValue

ID, SECRET = "0123456789", "ab" * 32
TOKEN = Token(ID, "shop", frozenset({Role.SUBMIT}), hidden(SECRET), created=100.0, expires=200.0)
ALL = {ID: TOKEN}


class TestKnown:
    def test_the_right_one(self):
        assert known(ALL, written(ID, SECRET), now=150.0) == TOKEN

    @pytest.mark.parametrize(
        "shown",
        [
            written(ID, "ab" * 31 + "ac"),
            written("9876543210", SECRET),
            written(ID, SECRET).upper(),
            written(ID, SECRET) + "\n",
            f" {written(ID, SECRET)}",
            written(ID, ""),
            written(ID, hidden(SECRET)),  # what Redis has is no secret
            SECRET,
            "",
            "gpumesh_é",
        ],
    )
    def test_wrong_ones(self, shown):
        assert known(ALL, shown, now=150.0) is None

    @given(st.text())
    def test_no_text_is_taken_for_one(self, text):
        assert known(ALL, text, now=150.0) is None

    @pytest.mark.parametrize(("now", "is_good"), [(199.9, True), (200.0, False), (1e9, False)])
    def test_its_end(self, now, is_good):
        assert (known(ALL, written(ID, SECRET), now) is not None) == is_good

    def test_what_is_kept_is_not_the_secret(self):
        assert SECRET not in json.dumps(TOKEN.to_dict())
        assert Token.from_dict(json.loads(json.dumps(TOKEN.to_dict()))) == TOKEN


@pytest.mark.parametrize(
    ("held", "wanted", "is_allowed"),
    [
        ("submit", "submit", True),
        ("submit", "read", False),
        ("submit", "admin", False),
        ("read", "submit", False),
        ("read", "read", True),
        ("read", "admin", False),
        ("admin", "submit", True),
        ("admin", "read", True),
        ("admin", "admin", True),
        ("submit read", "admin", False),
        ("submit read", "read", True),
        ("read", "submit read", True),
        ("", "submit read", False),
    ],
)
def test_what_a_role_may(held, wanted, is_allowed):
    assert may(map(Role, held.split()), map(Role, wanted.split())) == is_allowed


@pytest.mark.parametrize("name", ["", "local", "-a", "a b", "a\n", "ä", "a" * 64])
def test_names_that_are_refused(name):
    with pytest.raises(InvalidValue, match="name="):
        check_name(name)
    assert check_name("a" * 63)


@pytest.mark.parametrize("roles", [[], ["root"], ["read", "Admin"]])
def test_roles_that_are_refused(roles):
    with pytest.raises(InvalidValue, match="submit, read, admin"):
        read_roles(roles)


class TestRates:
    def test_a_burst_then_the_rate(self):
        rates = Rates(rate=2.0, burst=3.0)
        assert [rates.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
        assert rates.take("a", 0.4) == pytest.approx(0.1)
        assert rates.take("a", 0.5) == 0.0
        assert rates.take("a", 0.5) == pytest.approx(0.5)

    def test_each_has_its_own(self):
        rates = Rates(rate=1.0, burst=1.0)
        assert rates.take("a", 0.0) == rates.take("b", 0.0) == 0.0
        assert rates.take("a", 0.0) == 1.0

    def test_what_is_saved_is_no_more_than_a_burst(self):
        rates = Rates(rate=1.0, burst=2.0)
        rates.take("a", 0.0)
        assert [rates.take("a", 1e6) for _ in range(3)] == [0.0, 0.0, 1.0]

    def test_many_addresses_take_no_memory(self):
        rates = Rates(rate=1.0, burst=1.0, kept=2)
        for key in ("a", "b", "a", "c"):
            rates.take(key, 0.0)
        assert rates.take("a", 0.0) > 0  # b was forgotten, which did nothing for longest
        assert rates.take("b", 0.0) == 0.0

    @given(st.lists(st.floats(0, 10), max_size=200), st.floats(0.1, 20), st.floats(1, 20))
    def test_never_more_than_burst_and_rate_allow(self, steps, rate, burst):
        rates, allowed, now = Rates(rate, burst), 0, 0.0
        for step in steps:
            now += step
            allowed += rates.take("a", now) == 0.0
        assert allowed <= burst + rate * now + 1e-6


def _depth(value):
    if isinstance(value, dict):
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


class TestNesting:
    @given(
        st.recursive(
            st.none() | st.integers() | st.text(alphabet='[]{}"\\é\nab'),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[]{}"\\a'), inner, max_size=3)
            ),
            max_leaves=30,
        ),
        st.booleans(),
        st.integers(0, 8),
    )
    def test_as_deep_as_it_is(self, value, ascii_only, levels):
        text = json.dumps(value, ensure_ascii=ascii_only).encode()
        assert is_deeper(text, levels) == (_depth(value) > levels)

    @pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"]" * 100, b'["' + b'\\"[' * 100_000])
    def test_what_is_no_json_takes_no_time(self, text):
        """The last one would take a backtracking pattern hours."""
        is_deeper(text, 64)
