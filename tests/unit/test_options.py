"""From a caller's options to the `mesh` header (SPEC P1, Q4, Q7; DESIGN §3, §4)."""

from __future__ import annotations

import inspect
import json
import time

import pytest
from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.app.task import Context, extract_exec_options
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Producer, Queue

from gpu_mesh.errors import InvalidTask, PayloadTooLarge, UnknownQueue
from gpu_mesh.settings import settings as mesh_settings
from gpu_mesh.tasks.options import (
    HEADER,
    MESH_OPTIONS,
    check_payload,
    header_of,
    needs_of,
    prepare,
    refuse_misspelt,
    take,
)

PROPERTIES = {"app_id", "cluster_id", "correlation_id", "message_id", "reply_to", "timestamp", "type", "user_id"}
FUNCTIONS = [
    Task.apply,
    Task.apply_async,
    Task.retry,
    Task.signature_from_request,
    Celery.send_task,
    AMQP.as_task_v1,
    AMQP.as_task_v2,
    Producer.publish,
]


def stock_names() -> set[str]:
    """Every option that Celery and kombu read, of a call, a message, a task or a signature."""
    names = {name for function in FUNCTIONS for name in inspect.signature(function).parameters}
    for holder in (Task, Context):
        names |= {name for name in dir(holder) if not name.startswith("_")}
    names |= set(extract_exec_options(Task))
    # What `send_task_message` takes by keyword is a closure: its names as of Celery 5.7.
    names |= {"event_dispatcher", "exchange_type", "timeout", "confirm_timeout", "declare", "immutable", "subtask_type"}
    return (names | PROPERTIES) - MESH_OPTIONS


def header(task: str = "shop.answer", declared=None, **options):
    return prepare(task, declared or {}, options)["headers"][HEADER]


def run_before(**fields) -> dict:
    """The header of a run that a retry follows."""
    return {"headers": {HEADER: {"v": 1, "class": "customer", "priority": 8, "needs": {}, "sent_at": 1.0, **fields}}}


# take


def test_stock_options_pass_unharmed():
    """Issue 2.5: every option of stock Celery goes on as it is, None and all."""
    names = stock_names()
    assert {"countdown", "eta", "expires", "link_error", "chord", "headers", "exchange", "retry_policy"} <= names
    for name in sorted(names):
        value = ["a"] if name == "stamped_headers" else object()
        assert take({name: value}) == ({}, {name: value})
        assert take({name: None}) == ({}, {name: None})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("memroy_gb", "memory_gb"),
        ("memory", "memory_gb"),
        ("mem_gb", "memory_gb"),
        ("buisness", "business"),
        ("gpu_typ", "gpu_type"),
        ("gputype", "gpu_type"),
        ("gpu_counts", "gpu_count"),
        ("lables", "labels"),
        ("label", "labels"),
        ("prioritiy", "priority"),
        ("que", "queue"),
        ("queues", "queue"),
        ("requirement", "requirements"),
        ("modle", "model"),
        ("devices", "device"),
        ("require_gpu", "require_gpu_type"),
    ],
)
def test_what_is_nearly_ours_is_refused(typed: str, meant: str):
    """Issue 2.5: Celery would send it along unread, and the task would land anywhere."""
    for refuse in (take, refuse_misspelt, lambda options: prepare("t", {}, options)):
        with pytest.raises(InvalidTask) as caught:
            refuse({typed: 6})
        assert (caught.value.field, caught.value.value) == (typed, 6)
        assert caught.value.remedy == f"no such option; did you mean {meant}?"


@pytest.mark.parametrize("name", ["label", "memory", "customer", "devices"])
def test_custom_stamps_pass(name: str):
    """Issue 2.5: canvas stamping sends each stamp as an option of its own name."""
    options = {"stamped_headers": [name, "other"], name: "x", "other": 1}
    assert take(options) == ({}, options)
    assert prepare("t", {}, options)[name] == "x"


@pytest.mark.parametrize("name", ["epochs", "trace", "tenant", "x"])
def test_names_near_nothing_are_celerys_business(name: str):
    """Issue 2.5: kombu takes any message property."""
    assert take({name: 1}) == ({}, {name: 1})


def test_none_means_not_given():
    """Issue 2.5: Celery itself passes `queue=None, priority=None` on."""
    assert take(dict.fromkeys(MESH_OPTIONS)) == ({}, {})
    declared = {"queue": "customer", "priority": 8, "memory_gb": 4}
    assert header(declared=declared, **dict.fromkeys(MESH_OPTIONS)) == {**header(declared=declared), "sent_at": NOW}


def test_options_are_split():
    """P1: ours apart from Celery's; what was given stays as it was."""
    given_ = {"memory_gb": 6, "countdown": 3, "model": None}
    assert take(given_) == ({"memory_gb": 6}, {"countdown": 3})
    assert given_ == {"memory_gb": 6, "countdown": 3, "model": None}


class AnyTime(float):
    """Equal to every time of the last minute."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and 0 <= time.time() - other + 0.001 < 60

    __hash__ = float.__hash__


NOW = AnyTime()


# prepare


def test_the_header():
    """DESIGN §3: version, class, priority 0-10, needs, time of sending; as JSON."""
    found = header(business="revenue", priority=9, memory_gb=12, gpu_type="RTX 4090", requirements={"epochs": 3})
    assert found == {
        "v": 1,
        "class": "revenue",
        "priority": 9,
        "needs": {"memory_gb": 12.0, "gpu_type": "RTX 4090", "extra": {"epochs": 3}},
        "sent_at": NOW,
    }
    assert json.loads(json.dumps(found)) == found


def test_a_task_that_says_nothing():
    """Q4, Q7: internal, normal, needs one device."""
    assert header() == {"v": 1, "class": "internal", "priority": 5, "needs": {}, "sent_at": NOW}


def test_what_celery_gets():
    """Q4, DESIGN §4: the queue, the wire's priority, other headers beside ours, and nothing of the mesh's options."""
    options = prepare("t", {}, {"priority": 9, "memory_gb": 6, "countdown": 3, "headers": {"trace": "a"}})
    assert options["headers"].pop(HEADER)["priority"] == 9
    assert options == {"queue": "internal", "priority": 0, "countdown": 3, "headers": {"trace": "a"}}


def test_the_callers_headers_stay_as_they_were():
    """P1: one dict of headers may serve many calls."""
    headers = {"trace": "a"}
    prepare("t", {}, {"headers": headers})
    assert headers == {"trace": "a"}


@pytest.mark.parametrize("priority", range(11))
def test_priorities(priority: int):
    """Q4: the header keeps 0-10, whatever the wire carries."""
    options = prepare("t", {}, {"priority": priority})
    assert options["headers"][HEADER]["priority"] == priority
    assert options["priority"] == [9, 9, 9, 6, 6, 6, 3, 3, 0, 0, 0][priority]


@pytest.mark.parametrize("priority", [11, -1, True, "9", 5.0])
def test_wrong_priorities(priority: object):
    """Q4: refused in the caller, declared or called."""
    for declared, options in (({"priority": priority}, {}), ({}, {"priority": priority})):
        with pytest.raises(InvalidTask, match="0 \\(low\\) to 10") as caught:
            prepare("t", declared, options)
        assert caught.value.field == "priority"


@pytest.mark.parametrize("requirements", ["memory_gb=6", 6, ["memory_gb"], True])
def test_wrong_requirements(requirements: object):
    """P1: a mapping."""
    with pytest.raises(InvalidTask) as caught:
        prepare("t", {}, {"requirements": requirements})
    assert caught.value.field == "requirements"


@pytest.mark.parametrize("headers", ["trace", [("trace", "a")], 1])
def test_wrong_headers(headers: object):
    """Issue 2.5: named, instead of an error from the depth of Celery."""
    with pytest.raises(InvalidTask) as caught:
        prepare("t", {}, {"headers": headers})
    assert caught.value.field == "headers"


def test_an_option_wins_over_the_same_in_requirements():
    """P1: what stands by itself says more than what stands in a mapping."""
    assert needs_of({"memory_gb": 6, "requirements": {"memory_gb": 4, "epochs": 3}}) == {"memory_gb": 6, "epochs": 3}
    assert needs_of({"queue": "customer", "priority": 3}) == {}


def test_a_call_wins_over_the_header_before_and_that_over_the_declaration():
    """P1: field by field."""
    declared = {"memory_gb": 4, "model": "m", "priority": 2, "queue": "ai-batch"}
    before = run_before(needs={"memory_gb": 8.0, "model": "m"}, priority=8)
    assert header(declared=declared) | {"sent_at": 0} == {
        "v": 1,
        "class": "ai-batch",
        "priority": 2,
        "needs": {"memory_gb": 4.0, "model": "m"},
        "sent_at": 0,
    }
    again = header(declared=declared, **before)
    assert (again["class"], again["priority"], again["needs"]) == ("customer", 8, {"memory_gb": 8.0, "model": "m"})
    called = header(declared=declared, **before, memory_gb=12, priority=9, business="revenue")
    assert (called["class"], called["priority"], called["needs"]) == ("revenue", 9, {"memory_gb": 12.0, "model": "m"})


@pytest.mark.parametrize(
    ("declared", "call"),
    [
        ({"memory_gb": 6}, {"memory_gb": 0}),
        ({"gpu_count": 2}, {"gpu_count": 1}),
        ({"labels": {"trust": "owned"}}, {"labels": {}}),
        ({"gpu_type": "A40", "require_gpu_type": True}, {"require_gpu_type": False}),
    ],
)
def test_a_retry_keeps_what_its_call_took_back(declared: dict, call: dict):
    """P1: a call that lifts a declared need lifts it for its retries as well."""
    first = header(declared=declared, **call)
    assert header(declared=declared, headers={HEADER: first})["needs"] == first["needs"]


GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "memory_gb": st.integers(0, 9),
        "gpu_count": st.integers(0, 3),
        "labels": st.sampled_from([{}, {"trust": "owned"}]),
        "priority": st.integers(0, 10),
        "queue": st.sampled_from(["revenue", "ai-batch", "control"]),
        "requirements": st.sampled_from([{}, {"epochs": 3}, {"memory_gb": 2}]),
    },
)


@settings(deadline=None, max_examples=30)
@given(GIVEN, GIVEN)
def test_a_retry_that_says_nothing_goes_as_the_run_before(declared: dict, call: dict):
    """F1, DESIGN §4: class, priority and needs, however often."""
    first = header(declared=declared, **call)
    second = header(declared=declared, headers={HEADER: first})
    assert second | {"sent_at": 0} == first | {"sent_at": 0}


def test_the_nearest_word_on_the_queue_counts():
    """Q7: a call's `business=` replaces a declared `queue=`, and the other way round; within one they must agree."""
    assert header(declared={"queue": "customer"}, business="revenue")["class"] == "revenue"
    assert header(declared={"business": "revenue"}, queue="ai-batch")["class"] == "ai-batch"
    assert header(declared={"queue": "customer"}, **run_before(**{"class": "ai-realtime"}))["class"] == "ai-realtime"
    with pytest.raises(InvalidTask, match="give one of the two"):
        header(business="revenue", queue="customer")


def test_a_queue_object_is_its_name():
    """Issue 2.5: Celery's `queue=` takes kombu's Queue."""
    assert prepare("t", {}, {"queue": Queue("customer")})["queue"] == "customer"
    with pytest.raises(UnknownQueue):
        prepare("t", {}, {"queue": Queue("nope")})


def test_the_operators_cpu_queues():
    """Q6: known by the settings."""
    for queue in mesh_settings().cpu_queues:
        assert header(queue=queue)["class"] == queue


@pytest.mark.parametrize("name", ["celery.chord_unlock", "celery.backend_cleanup", "celery.accumulate"])
def test_celerys_own_tasks_need_no_device(name: str):
    """Q6: they wait behind no GPU job, unless a caller says so."""
    assert header(name)["class"] == "control"
    assert header(name, business="customer")["class"] == "customer"
    assert header(name, queue="ai-batch")["class"] == "ai-batch"


HOSTILE = [
    None,
    "mesh",
    5,
    [],
    {},
    {"class": "customer"},
    run_before(**{"class": 5})["headers"][HEADER],
    run_before(**{"class": None})["headers"][HEADER],
    run_before(**{"class": ["customer"]})["headers"][HEADER],
    run_before(priority="9")["headers"][HEADER],
    run_before(priority=True)["headers"][HEADER],
    run_before(priority=11)["headers"][HEADER],
    run_before(priority=-1)["headers"][HEADER],
    run_before(priority=8.5)["headers"][HEADER],
    run_before(priority=None)["headers"][HEADER],
    run_before(needs=None)["headers"][HEADER],
    run_before(needs=[["memory_gb", 6]])["headers"][HEADER],
    run_before(needs="memory_gb=6")["headers"][HEADER],
]


@pytest.mark.parametrize("previous", HOSTILE)
def test_a_header_that_is_not_sound_is_none(previous: object):
    """DESIGN §4: such a message counts as a stock producer's; what this call says holds."""
    assert header_of({HEADER: previous}) is None
    found = header(declared={"queue": "ai-batch"}, headers={HEADER: previous}, memory_gb=6)
    assert found == {"v": 1, "class": "ai-batch", "priority": 5, "needs": {"memory_gb": 6.0}, "sent_at": NOW}


def test_headers_of_a_message():
    """DESIGN §4: ours among others; none in a stock producer's message."""
    ours = run_before()["headers"][HEADER]
    assert header_of({"task": "t", HEADER: ours}) == ours
    assert header_of({"task": "t"}) is header_of({}) is header_of(None) is None
    assert header_of({HEADER: {**ours, "v": 2, "later": 1}}) == {**ours, "v": 2, "later": 1}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"memory_gb": "6"}, "memory_gb"),
        ({"requirements": {"memory_gb": -1}}, "memory_gb"),
        ({"gpu_count": 1.5}, "gpu_count"),
        ({"labels": ["owned"]}, "labels"),
        ({"require_gpu_type": True}, "require_gpu_type"),
        ({"business": "sales"}, "business"),
        ({"queue": "nope"}, "queue"),
    ],
)
def test_wrong_values_name_their_field(options: dict, field: str):
    """P1: declared or called."""
    for declared, call in ((options, {}), ({}, options)):
        with pytest.raises(InvalidTask) as caught:
            prepare("t", declared, call)
        assert caught.value.field == field


# check_payload

LIMIT = int(mesh_settings().max_payload_mb * 1_000_000)


def too_large(args, kwargs=None) -> bool:
    try:
        check_payload(args, kwargs)
    except PayloadTooLarge:
        return True
    return False


def test_the_refusal_says_what_to_do():
    """STYLE 18: how much, how much is allowed, where that is set; not the arguments themselves."""
    with pytest.raises(PayloadTooLarge) as caught:
        check_payload((HUGE,), None)
    assert caught.value.field == "args"
    assert "more than 10 MB" in str(caught.value)
    assert "GPU_MESH_MAX_PAYLOAD_MB" in str(caught.value)
    assert len(str(caught.value)) < 200


SHARED = "x" * 1000
HUGE = "x" * (LIMIT * 5)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((HUGE,), None),
        ([HUGE], {}),
        (None, {"text": HUGE}),
        (None, {HUGE: 1}),
        ((HUGE.encode(),), None),
        (({"a": [{"b": (1, [HUGE])}]},), None),
        ((["x" * 1000] * (LIMIT // 1000),), None),
        (([{SHARED: SHARED}] * (LIMIT // 2000),), None),
        (([0] * LIMIT,), None),
        (([[]] * LIMIT,), None),
    ],
    ids=["text", "list", "kwarg", "key", "bytes", "nested", "many", "dicts", "numbers", "lists"],
)
def test_what_is_too_large_is_refused(args: object, kwargs: object):
    """Issue 2: a 50 MB payload, wherever in the arguments."""
    assert too_large(args, kwargs)


def test_the_limit_itself():
    """Issue 2: by a lower bound of the JSON that travels, to the byte where the arguments are one text."""
    text = "x" * (LIMIT - len('[""]{}'))
    assert not too_large((text,), {})
    assert too_large((text + "x",), {})


def test_a_list_that_holds_itself_comes_to_an_end():
    """Issue 2: what has no end is too large."""
    endless: list = []
    endless += [endless, "x" * 100_000]
    assert too_large((endless,))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('aé"0', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=15)
@given(JSON)
def test_what_fits_as_json_is_never_refused(value: object):
    """Issue 2: the bound is a lower one: beside filler that leaves just room for the value's JSON, all pass."""
    written = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    filler = "x" * (LIMIT - written - len('["",]') - len("{}"))
    assert not too_large((filler, value), {})


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (None, None), ((1, "a", None, 2.5), {"b": [True]}), ([], {})])
def test_small_arguments_pass(args: object, kwargs: object):
    """Issue 2: also none at all."""
    assert not too_large(args, kwargs)
