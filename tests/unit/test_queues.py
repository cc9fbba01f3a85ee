"""Queues, bands, the wire mapping and which queue a task goes to (SPEC Q1, Q4, Q6, Q7)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.transport.redis import Channel

from gpu_mesh.domain.queues import (
    BUSINESS_QUEUES,
    CONTROL_QUEUE,
    DEFAULT_PRIORITY,
    GPU_QUEUES,
    LIST_SEPARATOR,
    PRIORITY_STEPS,
    QUEUES,
    Band,
    Tier,
    band_of,
    check_priority,
    choose_queue,
    list_names,
    wire_priority,
)
from gpu_mesh.errors import InvalidTask, UnknownQueue

quick = settings(deadline=None, max_examples=30)

CPU_QUEUES = ("rfa-reminders", "rfa-distribution")


def never():
    raise AssertionError("the CPU queues were asked for without need")


def test_weights_and_canonical_order():
    """Q1: the weights ordered, most urgent first, each queue once."""
    assert {queue.name: queue.weight for queue in QUEUES} == {
        "revenue": 1.00,
        "customer": 0.95,
        "ai-realtime": 0.90,
        "internal": 0.85,
        "ai-batch": 0.50,
    }
    assert GPU_QUEUES == ("revenue", "customer", "ai-realtime", "internal", "ai-batch")
    weights = [queue.weight for queue in QUEUES]
    assert weights == sorted(set(weights), reverse=True)


def test_background_lies_below_interactive():
    """Q5: internal and ai-batch are background; in canonical order they come after all that is interactive."""
    assert [queue.name for queue in QUEUES if queue.tier is Tier.BACKGROUND] == ["internal", "ai-batch"]
    assert [queue.tier for queue in QUEUES] == [Tier.INTERACTIVE] * 3 + [Tier.BACKGROUND] * 2


def test_bands():
    """Q4: 0-2 low, 3-5 normal (5 by default), 6-7 high, 8-10 critical."""
    assert [band_of(priority) for priority in range(11)] == (
        [Band.LOW] * 3 + [Band.NORMAL] * 3 + [Band.HIGH] * 2 + [Band.CRITICAL] * 3
    )
    assert DEFAULT_PRIORITY == 5


def test_wire_priorities():
    """Q4, DESIGN §4: critical 0, high 3, normal 6, low 9: exactly kombu's steps, and all of them."""
    assert [wire_priority(priority) for priority in range(11)] == [9, 9, 9, 6, 6, 6, 3, 3, 0, 0, 0]
    assert {wire_priority(priority) for priority in range(11)} == set(PRIORITY_STEPS) == {0, 3, 6, 9}


@quick
@given(st.integers(0, 10), st.integers(0, 10))
def test_a_higher_priority_is_never_less_urgent_on_the_wire(one: int, other: int):
    """Q4: on the wire, 0 is most urgent."""
    low, high = sorted((one, other))
    assert wire_priority(high) <= wire_priority(low)


@pytest.mark.parametrize("priority", [*range(11)])
def test_priorities_that_are_right(priority: int):
    """Q4: 0 to 10."""
    assert check_priority(priority) == priority


@pytest.mark.parametrize("priority", [-1, 11, 100, True, False, "9", "high", 5.0, 5.5, None, [5], float("nan")])
def test_priorities_that_are_wrong(priority: object):
    """Q4: the field, the value and the range."""
    with pytest.raises(InvalidTask) as caught:
        check_priority(priority, "importance")
    assert caught.value.field == "importance"
    assert caught.value.value is priority
    assert "0 (low) to 10 (critical)" in str(caught.value)


@quick
@given(st.sampled_from([*GPU_QUEUES, CONTROL_QUEUE, *CPU_QUEUES]))
def test_lists_are_named_as_kombu_names_them(queue: str):
    """DESIGN §4: a stock producer or consumer of the queue uses the same Redis lists."""
    channel = SimpleNamespace(sep=LIST_SEPARATOR, priority_steps=list(PRIORITY_STEPS))
    channel.priority = lambda n: Channel.priority(channel, n)
    assert list_names(queue) == tuple(Channel._q_for_pri(channel, queue, step) for step in PRIORITY_STEPS)
    for priority in range(11):
        step = wire_priority(priority)
        assert Channel._q_for_pri(channel, queue, step) == list_names(queue)[PRIORITY_STEPS.index(step)]


def test_the_lists_of_a_queue():
    """DESIGN §4: most urgent first."""
    assert list_names("ai-batch") == ("ai-batch", "ai-batch:3", "ai-batch:6", "ai-batch:9")


@pytest.mark.parametrize(
    ("task", "queue"),
    [
        ("llm_inference", "ai-realtime"),
        ("embeddings", "ai-batch"),
        ("training", "ai-batch"),
        ("custom", "ai-batch"),
        ("test", "ai-realtime"),
        ("shop.tasks.answer", "internal"),
        ("", "internal"),
    ],
)
def test_the_default_queue_of_each_type(task: str, queue: str):
    """Q7: by type; an application's own task goes to internal."""
    assert choose_queue(task, cpu_queues=never) == queue


@pytest.mark.parametrize("business", BUSINESS_QUEUES)
def test_business_chooses(business: str):
    """Q7: revenue, customer or internal, whatever the type; saying the same twice is fine."""
    assert choose_queue("embeddings", business=business, cpu_queues=never) == business
    assert choose_queue("embeddings", business=business, queue=business, cpu_queues=never) == business


@pytest.mark.parametrize("queue", [*GPU_QUEUES, CONTROL_QUEUE])
def test_queue_names_one_of_the_meshs_own(queue: str):
    """Q7: without asking which CPU queues there are."""
    assert choose_queue("llm_inference", queue=queue, cpu_queues=never) == queue


@pytest.mark.parametrize("queue", CPU_QUEUES)
def test_queue_names_one_that_needs_no_gpu(queue: str):
    """Q6: those the operator names."""
    assert choose_queue("llm_inference", queue=queue, cpu_queues=lambda: CPU_QUEUES) == queue


@quick
@given(st.sampled_from(BUSINESS_QUEUES), st.sampled_from([*GPU_QUEUES, CONTROL_QUEUE, *CPU_QUEUES]))
def test_queue_and_business_must_agree(business: str, queue: str):
    """Q7: both and different is an error, which names both."""
    if business == queue:
        return
    with pytest.raises(InvalidTask) as caught:
        choose_queue("test", queue=queue, business=business, cpu_queues=lambda: CPU_QUEUES)
    assert not isinstance(caught.value, UnknownQueue)
    assert (caught.value.field, caught.value.value) == ("business", business)
    assert queue in str(caught.value)


@pytest.mark.parametrize("business", ["ai-batch", "sales", "", 1, ["revenue"]])
def test_a_business_that_is_none(business: object):
    """Q7: names the three there are."""
    with pytest.raises(InvalidTask, match="one of revenue, customer, internal") as caught:
        choose_queue("test", business=business, cpu_queues=never)
    assert caught.value.field == "business"


@pytest.mark.parametrize("queue", ["nope", "", "Revenue", "ai-batch:3", 5, ["revenue"]])
def test_an_unknown_queue(queue: object):
    """Q7: names those there are, the operator's too, and where to name more."""
    with pytest.raises(UnknownQueue) as caught:
        choose_queue("test", queue=queue, cpu_queues=lambda: CPU_QUEUES)
    assert (caught.value.field, caught.value.value) == ("queue", queue)
    for name in (*GPU_QUEUES, CONTROL_QUEUE, *CPU_QUEUES, "GPU_MESH_CPU_QUEUES"):
        assert name in caught.value.remedy
