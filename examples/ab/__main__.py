"""`python -m ab DEVICE=MODEL DEVICE=MODEL`, with a mesh running: asks both the same and prints a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from celery.result import AsyncResult
from rich.console import Console

from ab.comparison import Variant, collect, row, table
from gpu_mesh import app
from gpu_mesh.tasks.inference import llm_inference

PROMPTS = (
    "Answer a customer in two sentences: how do I pay an invoice?",
    "Name three risks of a rented GPU, one line each.",
    "Translate into German: The parcel has been sent.",
    "Sum up in ten words: Northwind wants 40 licences from January; the budget is approved.",
    "Write a polite reminder of an unpaid invoice, at most 50 words.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Send all, wait, print. 1 where a question found no answer."""
    asked = _arguments(argv)
    console = Console(highlight=False, markup=False)
    prompts = asked.prompts.read_text(encoding="utf-8").splitlines() if asked.prompts else list(PROMPTS)
    prompts = [prompt for prompt in prompts if prompt.strip()]
    app.set_default()
    sent: dict[Variant, list[AsyncResult]] = {variant: [] for variant in asked.variants}
    # In turns: both devices work at the same time.
    for prompt in prompts:
        for variant in asked.variants:
            sent[variant].append(ask(variant, prompt, asked.max_tokens))
    console.print(f"{len(prompts)} questions to each of {len(sent)} variants", soft_wrap=True)
    try:
        outcomes = {variant: collect(results, asked.timeout) for variant, results in sent.items()}
    except KeyboardInterrupt:
        for result in (result for results in sent.values() for result in results):
            result.revoke()
        console.print("interrupted: what had no answer is taken back")
        return 130
    for number, prompt in enumerate(prompts if asked.answers else ()):
        console.print(f"\n{prompt}", soft_wrap=True)
        for variant, outcome in outcomes.items():
            said = outcome.results.get(number, {}).get("text") or outcome.failures.get(number)
            console.print(f"  {variant.model}: {said}", soft_wrap=True)
    console.print()
    console.print(table([row(variant, outcome) for variant, outcome in outcomes.items()]))
    for variant, outcome in outcomes.items():
        for why, numbers in outcome.reasons().items():
            listed = ", ".join(str(number + 1) for number in numbers)
            console.print(f"{variant.model}, question {listed}: {why}", soft_wrap=True)
    return 1 if any(outcome.failures for outcome in outcomes.values()) else 0


def ask(variant: Variant, prompt: str, max_tokens: int) -> AsyncResult:
    """The same words, the same options, the same seed. As internal work: it never holds up a customer."""
    options = {"max_tokens": max_tokens, "temperature": 0.0, "seed": 1}
    return llm_inference.apply_async(
        [prompt], {"options": options}, model=variant.model, device=variant.device, business="internal"
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ab", description="Compare model variants on devices of the mesh.")
    parser.add_argument("variants", nargs="+", type=_variant, metavar="DEVICE=MODEL", help="two or more")
    parser.add_argument("--prompts", type=Path, help="file with one question per line")
    parser.add_argument("--max-tokens", type=int, default=120, help="longest answer (120)")
    parser.add_argument("--timeout", type=float, default=600.0, help="how long to wait for a variant, s (600)")
    parser.add_argument("--answers", action="store_true", help="print the answers too")
    found = parser.parse_args(argv)
    if len(set(found.variants)) < max(2, len(found.variants)):
        parser.error("name two variants or more, each once")
    return found


def _variant(text: str) -> Variant:
    try:
        return Variant.parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


if __name__ == "__main__":
    sys.exit(main())
