"""The A/B example's figures and table (SPEC P4); tests/acceptance/test_ab.py runs it."""

from __future__ import annotations

import sys
from importlib import import_module
from io import StringIO
from pathlib import Path

import pytest
from celery.exceptions import TimeoutError as NotInTime
from rich.console import Console

sys.path.append(str(Path(__file__).parents[2] / "examples"))
ab = import_module("ab.comparison")

VARIANT = ab.Variant("gpu0", "gemma4:e4b")


def result(**given):
    """As `llm_inference` returns it."""
    return {
        "text": "one two three",
        "model": "gemma4:e4b",
        "device": "gpu0@desk",
        "output_tokens": 11,
        "first_token_s": 1.0,
        "seconds": 3.0,
        **given,
    }


class Sent:
    """Stands in for a sent task: `value` is its result, its error, or None while there is none."""

    def __init__(self, value):
        self.value = value
        self.revoked = False

    def get(self, timeout, propagate):
        assert timeout > 0
        assert not propagate
        if self.value is None:
            raise NotInTime
        return self.value

    def successful(self):
        return not isinstance(self.value, Exception)

    def revoke(self):
        self.revoked = True


def row_of(*values):
    return ab.row(VARIANT, ab.collect([Sent(value) for value in values], 1.0))


def test_medians() -> None:
    """The slow first run, which loads the model, does not count for more than one run."""
    found = row_of(
        result(first_token_s=9.0, seconds=10.0, text="a"),
        result(first_token_s=0.2, seconds=2.2),
        result(first_token_s=0.4, seconds=1.4),
    )
    assert (found.variant, found.device, found.answers, found.failed) == ("gemma4:e4b", "gpu0@desk", 3, 0)
    assert found.first_token_s == 0.4
    assert found.seconds == 2.2
    assert found.tokens_per_s == pytest.approx(10.0)
    assert found.words == 3


def test_speed_is_that_after_the_first_token() -> None:
    assert row_of(result(output_tokens=11, first_token_s=1.0, seconds=3.0)).tokens_per_s == pytest.approx(5.0)


@pytest.mark.parametrize(
    "unmeasured",
    [{"output_tokens": None}, {"output_tokens": 1}, {"first_token_s": None}, {"first_token_s": 3.0}],
)
def test_what_cannot_be_measured_is_left_out(unmeasured) -> None:
    """A server that counts no tokens, an answer of one token, no answer at all: no false figure."""
    assert row_of(result(**unmeasured)).tokens_per_s is None
    assert row_of(result(**unmeasured), result()).tokens_per_s == pytest.approx(5.0)


def test_failures_are_counted_and_named() -> None:
    """They count neither as answers nor in the medians."""
    late = Sent(None)
    outcome = ab.collect([Sent(result()), Sent(ValueError("no such model")), late], 0.5)
    assert outcome.failures == {1: "ValueError: no such model", 2: "no answer within 0.5 s"}
    assert late.revoked
    found = ab.row(VARIANT, outcome)
    assert (found.answers, found.failed, found.seconds) == (1, 2, 3.0)


def test_a_variant_without_an_answer_is_in_the_table() -> None:
    found = row_of(ValueError("gone"))
    assert (found.device, found.first_token_s, found.words) == ("gpu0", None, None)


def test_the_table() -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(ab.table([row_of(result()), row_of(ValueError("gone"))]))
    header, first, second = console.export_text().splitlines()
    assert header.split("  ")[0] == "variant"
    assert first.split() == ["gemma4:e4b", "gpu0@desk", "1", "0", "1.000", "5.0", "3", "3.00"]
    assert second.split() == ["gemma4:e4b", "gpu0", "0", "1", *"––––"]


def test_variants_by_name() -> None:
    assert ab.Variant.parse("gpu1@desk=gemma4:12b") == ab.Variant("gpu1@desk", "gemma4:12b")
    for wrong in ("gpu0", "=gemma4", "gpu0="):
        with pytest.raises(ValueError, match="DEVICE=MODEL"):
            ab.Variant.parse(wrong)
