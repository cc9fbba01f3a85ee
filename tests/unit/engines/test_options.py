"""Options of generated text, as they come from a task's JSON."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_mesh.engines.options import GenerateOptions, check_options
from gpu_mesh.errors import InvalidTask


def test_none_leaves_all_to_the_engine() -> None:
    assert check_options(None) == check_options({}) == check_options({"seed": None}) == GenerateOptions()


def test_ollamas_names_are_known() -> None:
    assert check_options({"num_predict": 5, "num_ctx": 9}) == GenerateOptions(max_tokens=5, context_tokens=9)


def test_all_of_them() -> None:
    given = {
        "max_tokens": 5,
        "temperature": 1,
        "top_p": 0.5,
        "top_k": 3,
        "seed": -1,
        "stop": ["a", "b"],
        "context_tokens": 10,
        "think": False,
        "raw": True,
        "keep_alive_s": -1,
    }
    found = check_options(given)
    assert found == GenerateOptions(**{**given, "stop": ("a", "b")})
    assert check_options(found) == found
    assert check_options({"stop": "a"}).stop == ("a",)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ([], "options"),
        ("hot", "options"),
        ({"temprature": 1}, "options"),
        ({7: 1}, "options"),
        ({"max_tokens": 0}, "options.max_tokens"),
        ({"max_tokens": 1.5}, "options.max_tokens"),
        ({"max_tokens": True}, "options.max_tokens"),
        ({"seed": 2**63}, "options.seed"),
        ({"temperature": -0.1}, "options.temperature"),
        ({"temperature": float("nan")}, "options.temperature"),
        ({"temperature": "hot"}, "options.temperature"),
        ({"top_p": 1.1}, "options.top_p"),
        ({"stop": 7}, "options.stop"),
        ({"stop": [""]}, "options.stop"),
        ({"stop": ["a", 7]}, "options.stop"),
        ({"raw": 1}, "options.raw"),
        ({"think": "yes"}, "options.think"),
        ({"keep_alive_s": float("inf")}, "options.keep_alive_s"),
        (GenerateOptions(top_p=7), "options.top_p"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(options: Any, field: str) -> None:
    """STYLE 18."""
    with pytest.raises(InvalidTask) as caught:
        check_options(options)
    assert caught.value.field == field
