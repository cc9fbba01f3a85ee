"""`python -m support_desk`, with a mesh running: sends work of three kinds and prints what comes back."""

from __future__ import annotations

from gpu_mesh import app
from gpu_mesh.tasks.embeddings import embeddings
from support_desk.tasks import ANSWERS, answer_customer, sum_up_deal

NOTES = (
    "Northwind wants 40 licences from January. Their office has a nice view. "
    "The budget of 120 000 is approved by their board. Lunch was late. They decide on the offer on Friday."
)


def main() -> None:
    """Send, then wait: the three run side by side."""
    app.set_default()
    # Wanted now: left in its own queue, ai-batch, it would wait for the off-peak hours.
    index = embeddings.apply_async([list(ANSWERS)], business="internal")
    deal = sum_up_deal.apply_async([NOTES], business="revenue", priority=8)
    answer = answer_customer.delay("I forgot my password, what now?")
    print("customer:", answer.get(timeout=60)["answer"])
    print("deal:    ", deal.get(timeout=60))
    print("index:   ", index.get(timeout=60)["count"], "answers embedded")


if __name__ == "__main__":
    main()
