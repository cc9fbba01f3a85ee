"""Variants, what became of their questions, and the table that compares them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from celery.exceptions import TimeoutError as NotInTime
from celery.result import AsyncResult
from rich.table import Table

__all__ = ["Row", "Variant", "collect", "row", "table"]

_COLUMNS = ("variant", "device", "answers", "failed", "first token s", "tokens/s", "words", "seconds")


@dataclass(frozen=True, slots=True)
class Variant:
    """A model pinned to a device: `gpu0=gemma4:e4b`, or `gpu0@office=gemma4:e4b` where several nodes have a gpu0."""

    device: str
    model: str

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Raises ValueError."""
        device, sign, model = text.partition("=")
        if not (device and sign and model):
            raise ValueError(f"{text!r}: expected DEVICE=MODEL, as gpu0=gemma4:e4b")
        return cls(device, model)


@dataclass(slots=True)
class Outcome:
    """Of one variant: results of `llm_inference` by number of the question, and what failed."""

    results: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def reasons(self) -> dict[str, list[int]]:
        """The questions that failed, by why."""
        found: dict[str, list[int]] = {}
        for number, why in self.failures.items():
            found.setdefault(why, []).append(number)
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """One variant's figures: medians over its answers, None where nothing could be measured."""

    variant: str
    device: str
    answers: int
    failed: int
    #: From the start of a run; the first run of a model also loads it, which a median leaves out.
    first_token_s: float | None
    #: While it speaks: from the first token on.
    tokens_per_s: float | None
    #: In words: tokens are not the same in two models.
    words: float | None
    seconds: float | None


def collect(sent: Sequence[AsyncResult], timeout_s: float) -> Outcome:
    """Wait for all of a variant's runs, `timeout_s` in all; what is not there by then is taken back and has failed."""
    outcome = Outcome()
    deadline = time.monotonic() + timeout_s
    for number, result in enumerate(sent):
        try:
            value = result.get(timeout=max(0.1, deadline - time.monotonic()), propagate=False)
        except NotInTime:
            result.revoke()
            outcome.failures[number] = f"no answer within {timeout_s:g} s"
            continue
        if result.successful():
            outcome.results[number] = value
        else:
            outcome.failures[number] = f"{type(value).__name__}: {value}"
    return outcome


def row(variant: Variant, outcome: Outcome) -> Row:
    """The figures of one variant. The device is the one that said it ran them."""
    results = list(outcome.results.values())
    devices = sorted({str(result["device"]) for result in results})
    return Row(
        variant=variant.model,
        device=", ".join(devices) or variant.device,
        answers=len(results),
        failed=len(outcome.failures),
        first_token_s=_median([result["first_token_s"] for result in results]),
        tokens_per_s=_median([_speed(result) for result in results]),
        words=_median([len(result["text"].split()) for result in results]),
        seconds=_median([result["seconds"] for result in results]),
    )


def _speed(result: Mapping[str, Any]) -> float | None:
    """Tokens per second after the first one; None for an answer too short, or of a server that counts no tokens."""
    tokens, first, whole = result["output_tokens"], result["first_token_s"], result["seconds"]
    if tokens is None or first is None or tokens < 2 or whole <= first:
        return None
    return float((tokens - 1) / (whole - first))


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def table(rows: Sequence[Row]) -> Table:
    """All variants, one below the other."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(_COLUMNS):
        drawn.add_column(name, justify="left" if index < 2 else "right", no_wrap=True)
    for one in rows:
        drawn.add_row(
            one.variant,
            one.device,
            str(one.answers),
            str(one.failed),
            _figure(one.first_token_s, 3),
            _figure(one.tokens_per_s, 1),
            _figure(one.words, 0),
            _figure(one.seconds, 2),
        )
    return drawn


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
