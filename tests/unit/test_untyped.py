"""What other processes said, whatever their version (domain/untyped.py)."""

from __future__ import annotations

import pytest

from gpu_mesh.domain.untyped import mapping, number, sequence


@pytest.mark.parametrize(("value", "found"), [(3, 3.0), (0.5, 0.5), (-1, -1.0), (0, 0.0)])
def test_a_number(value: object, found: float):
    assert number(value) == found


@pytest.mark.parametrize("value", [None, True, "3", [3], {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_number(value: object):
    assert number(value) is None


def test_what_is_no_object_and_no_array():
    assert (mapping({"a": 1}), sequence([1]), sequence((1,))) == ({"a": 1}, [1], (1,))
    for value in (None, 3, "ab", True):
        assert (mapping(value), sequence(value)) == ({}, ())
    assert (mapping([1]), sequence({"a": 1})) == ({}, ())
