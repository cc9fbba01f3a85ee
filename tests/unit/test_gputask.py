"""GpuTask: declared options, eager runs, retries (SPEC P1, Q4, Q7; DESIGN §4)."""

from __future__ import annotations

import warnings
from typing import ClassVar

import pytest
from celery import chain, group, shared_task
from celery.app.task import Context

from gpu_mesh.celery import MeshCelery
from gpu_mesh.domain.requirements import Requirements
from gpu_mesh.errors import InvalidTask, PayloadTooLarge, UnknownQueue
from gpu_mesh.tasks.base import GpuTask
from gpu_mesh.tasks.options import HEADER


@pytest.fixture
def app():
    """An app of GpuTasks that runs them in the caller; it has no broker."""
    app = MeshCelery("unit", set_as_current=False, broker="memory://", backend="cache+memory://")
    app.conf.update(task_always_eager=True, task_eager_propagates=True)
    return app


@pytest.fixture
def define(app):
    """A task of these options, defined at once and in this app alone."""

    def header(self):
        return dict(self.request.headers[HEADER])

    def define(function=header, **options):
        return app.task(lazy=False, shared=False, name="unit.task", bind=True, **options)(function)

    return define


# Declared options


def test_options_of_app_task(define):
    """P1, Q7: they become the header of every send."""
    task = define(queue="ai-realtime", priority=9, memory_gb=6, model="gemma4:e4b", requirements={"epochs": 3})
    header = task.delay().get()
    assert (header["class"], header["priority"]) == ("ai-realtime", 9)
    assert header["needs"] == {"memory_gb": 6.0, "model": "gemma4:e4b", "extra": {"epochs": 3}}


def test_options_of_shared_task(app):
    """P1: the same from `@shared_task`."""

    @shared_task(name="unit.shared", bind=True, business="revenue", gpu_type="RTX 4090", labels={"trust": "owned"})
    def shared(self):
        return self.request.headers[HEADER]

    header = app.tasks["unit.shared"].delay().get()
    assert header["class"] == "revenue"
    assert header["needs"] == {"gpu_type": "RTX 4090", "labels": {"trust": "owned"}}


def test_no_options_at_all(app):
    """Q7: an application's own task; without `bind`, as any Celery task."""

    @app.task(shared=False)
    def add(x, y):
        return x + y

    assert add(1, 2) == add.delay(1, 2).get() == add.apply((1,), {"y": 2}).get() == 3
    assert add.declared == {}


def test_celery_does_not_read_our_options_in_its_own_sense(define):
    """DESIGN §4: on the class, `queue` is deprecated, `priority` is the wire's: neither stays there."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = define(queue="customer", priority=9)
    assert task.priority is None
    assert not hasattr(task, "queue")
    assert task.declared == {"queue": "customer", "priority": 9}


WRONG = [
    ({"memory_gb": "6"}, "memory_gb"),
    ({"memory_gb": [6]}, "memory_gb"),
    ({"memory_gb": -1}, "memory_gb"),
    ({"memory_gb": True}, "memory_gb"),
    ({"gpu_count": 1.5}, "gpu_count"),
    ({"labels": ["owned"]}, "labels"),
    ({"labels": {"trust": 1}}, "labels"),
    ({"requirements": ["memory_gb"]}, "requirements"),
    ({"requirements": {"gpu_count": -1}}, "gpu_count"),
    ({"require_gpu_type": True}, "require_gpu_type"),
    ({"model": 7}, "model"),
    ({"priority": 11}, "priority"),
    ({"priority": "9"}, "priority"),
    ({"business": "sales"}, "business"),
    ({"business": "revenue", "queue": "customer"}, "business"),
    ({"queue": "nope"}, "queue"),
    ({"memroy_gb": 6}, "memroy_gb"),
    ({"gpu_typ": "A40"}, "gpu_typ"),
    ({"buisness": "revenue"}, "buisness"),
]


@pytest.mark.parametrize(("options", "field"), WRONG)
def test_wrong_values_fail_where_the_task_is_defined(define, options: dict, field: str):
    """P1: naming the field, before any call."""
    with pytest.raises(InvalidTask) as caught:
        define(**options)
    assert caught.value.field == field


def test_none_declares_nothing(define):
    """Issue 2.5: None means not given."""
    assert define(queue=None, priority=None, memory_gb=None, labels=None).declared == {}


def test_stock_options_of_the_decorator(define):
    """Issue 2.5: they go to Celery, also those of an application's own."""
    task = define(
        max_retries=7, rate_limit="10/m", ignore_result=True, time_limit=5, autoretry_for=(OSError,), team="a"
    )
    assert (task.max_retries, task.time_limit, task.ignore_result, task.team) == (7, 5, True, "a")
    assert task.declared == {}


# Tasks as classes


def test_a_class_declares_by_its_attributes(app):
    """P1: as Celery's own options."""

    class Answer(GpuTask):
        name = "unit.answer"
        queue = "customer"
        priority = 7
        memory_gb = 5
        model = "gemma4:e4b"

        def run(self):
            return self.model, self.memory_gb, self.requirements

    task = app.register_task(Answer())
    assert task.declared == {"queue": "customer", "priority": 7, "memory_gb": 5, "model": "gemma4:e4b"}
    assert task.delay().get() == ("gemma4:e4b", 5, Requirements(memory_gb=5.0, model="gemma4:e4b"))
    assert task.priority is None


def test_an_applications_own_attributes_stay(app):
    """Issue 2.5: a task may keep its loaded model, its device, its labels under those names."""

    class Loads(GpuTask):
        name = "unit.loads"
        labels: ClassVar[list[str]] = ["cat", "dog"]
        node = None

        @property
        def model(self):
            return {"weights": 1}

        @property
        def device(self):
            return "cuda:0"

        def run(self):
            return self.model, self.device, self.labels, self.node

    task = app.register_task(Loads())
    assert task.declared == {}
    assert task.delay().get() == ({"weights": 1}, "cuda:0", ["cat", "dog"], None)


def test_a_decorator_does_not_hide_what_its_base_has(app):
    """Issue 2.5: Celery's idiom of a base that loads the model once."""

    class Base(GpuTask):
        abstract = True

        @property
        def model(self):
            return "loaded"

    @app.task(base=Base, bind=True, shared=False, model="gemma4:e4b", device="gpu0", requirements={"epochs": 3})
    def answer(self):
        return self.model, self.device, self.requirements

    assert answer.delay().get() == (
        "loaded",
        None,
        Requirements(model="gemma4:e4b", device="gpu0", extra={"epochs": 3}),
    )


def test_a_class_refuses_wrong_values_too():
    """P1: where it is written."""
    with pytest.raises(InvalidTask) as caught:
        type("Wrong", (GpuTask,), {"name": "unit.wrong", "memory_gb": -1})
    assert caught.value.field == "memory_gb"


def test_what_a_base_declares_is_inherited(app):
    """P1: field by field; the base stays as it was."""

    class Base(GpuTask):
        abstract = True
        queue = "customer"
        memory_gb = 8
        model = "a"

    @app.task(base=Base, shared=False, memory_gb=2)
    def small():
        pass

    @app.task(base=Base, shared=False)
    def whole():
        pass

    assert small.declared == {"queue": "customer", "memory_gb": 2, "model": "a"}
    assert whole.declared == Base.declared == {"queue": "customer", "memory_gb": 8, "model": "a"}
    assert GpuTask.declared == {}


def test_the_nearer_class_says_where_to(app):
    """Q7: `business=` below an inherited `queue=` replaces it, and the other way round."""

    class Base(GpuTask):
        abstract = True
        queue = "customer"

    @app.task(base=Base, shared=False, business="revenue")
    def sell():
        pass

    class Back(type(sell._get_current_object())):
        abstract = True
        queue = "ai-batch"

    assert sell.declared == {"business": "revenue"}
    assert Back.declared == {"queue": "ai-batch"}


@pytest.mark.parametrize("name", ["celery.chord_unlock", "celery.accumulate", "celery.backend_cleanup"])
def test_celerys_own_tasks(app, name: str):
    """Q6: they are GpuTasks too, and go to control."""
    task = app.tasks[name]
    assert isinstance(task, GpuTask)
    assert task.signature_from_request(Context(headers=None)).type.declared == {}


# Calls


def test_a_calls_options(define):
    """P1: above the declared ones."""
    task = define(queue="ai-realtime", memory_gb=6)
    header = task.apply_async(business="revenue", priority=9, memory_gb=12, gpu_type="RTX 4090").get()
    assert (header["class"], header["priority"]) == ("revenue", 9)
    assert header["needs"] == {"memory_gb": 12.0, "gpu_type": "RTX 4090"}
    assert task.s().set(priority=2).apply_async().get()["priority"] == 2


class Ran(Exception):
    """The task ran."""


def run(self, *args, **kwargs):
    raise Ran


@pytest.mark.parametrize("call", ["apply", "apply_async", "signature", "signature.apply"])
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"memory_gb": -1}, "memory_gb"),
        ({"priority": 11}, "priority"),
        ({"priority": True}, "priority"),
        ({"queue": "nope"}, "queue"),
        ({"business": "sales"}, "business"),
        ({"queue": "customer", "business": "revenue"}, "business"),
        ({"memroy_gb": 6}, "memroy_gb"),
        ({"requirements": [6]}, "requirements"),
        ({"headers": "trace"}, "headers"),
    ],
)
def test_a_wrong_call_fails_before_the_task_runs(define, call: str, options: dict, field: str):
    """P1: in eager mode as in a mesh, by whichever way it is called."""
    task = define(run)
    ways = {
        "apply": lambda: task.apply(**options),
        "apply_async": lambda: task.apply_async(**options),
        "signature": lambda: task.s().set(**options).apply_async(),
        "signature.apply": lambda: task.s().set(**options).apply(),
    }
    with pytest.raises(InvalidTask) as caught:
        ways[call]()
    assert caught.value.field == field
    with pytest.raises(Ran):
        task.apply_async()


def test_wrong_calls_fail_before_anything_is_sent(app, define):
    """P1: without a broker, the first error is ours."""
    app.conf.task_always_eager = False
    task = define(run)
    with pytest.raises(UnknownQueue):
        task.apply_async(queue="nope")
    with pytest.raises(PayloadTooLarge):
        task.apply_async(("x" * 50_000_000,))
    with pytest.raises(InvalidTask, match="memory_gb"):
        app.send_task("unit.elsewhere", memory_gb="6")


def test_a_payload_that_is_too_large(define):
    """Issue 2: also in eager mode."""
    with pytest.raises(PayloadTooLarge):
        define(run).delay("x" * 50_000_000)


@pytest.mark.parametrize("way", ["apply", "apply_async"])
def test_an_eager_run_sees_what_a_mesh_would_give_it(define, way: str):
    """P1, Q4: header, requirements, the wire's priority in the delivery info, once and not twice translated."""

    def tell(self):
        return self.request.headers, self.requirements, self.request.delivery_info, self.device, self.inherited()

    task = define(tell)
    call = getattr(task, way)
    headers, needs, delivery, device, inherited = call(
        memory_gb=6, priority=6, business="revenue", headers={"trace": "a"}
    ).get()
    assert headers["trace"] == "a"
    assert (headers[HEADER]["class"], headers[HEADER]["priority"]) == ("revenue", 6)
    assert needs == Requirements(memory_gb=6.0)
    assert delivery["priority"] == 3
    assert device is None
    assert inherited == {"queue": "revenue", "priority": 6, "requirements": {"memory_gb": 6.0}}


def test_requirements_without_a_header_are_as_declared(define):
    """P1: a task called as a function, or sent by a stock producer."""

    def tell(self):
        return self.requirements, self.inherited()

    task = define(tell, memory_gb=6, requirements={"epochs": 3})
    assert task() == (Requirements(memory_gb=6.0, extra={"epochs": 3}), {})


def test_canvas(define):
    """Issue 2.5: chains and groups of them, each with its own options."""

    def tell(self, before=()):
        return [self.request.headers[HEADER]["priority"], *before]

    task = define(tell)
    low, high = task.s().set(priority=1), task.s().set(priority=10)
    assert chain(low, high)().get() == [10, 1]
    assert group(low, high)().get() == [[1], [10]]


# Retries


def test_an_eager_retry_goes_as_the_run_before(app, define):
    """F1, Q4: queue, priority and needs stay, unless the retry says otherwise."""
    app.conf.task_eager_propagates = False  # else Celery raises Retry itself

    def flaky(self, seen):
        seen = [*seen, [self.request.headers[HEADER][name] for name in ("class", "priority", "needs")]]
        if self.request.retries == 0:
            raise self.retry(args=(seen,), countdown=0)
        if self.request.retries == 1:
            raise self.retry(args=(seen,), countdown=0, priority=2, memory_gb=3)
        return seen

    task = define(flaky, queue="customer", memory_gb=4, priority=8)
    assert task.apply_async(([],), priority=9, memory_gb=12).get() == [
        ["customer", 9, {"memory_gb": 12.0}],
        ["customer", 9, {"memory_gb": 12.0}],
        ["customer", 2, {"memory_gb": 3.0}],
    ]


def received(**fields) -> Context:
    """A request as a worker builds it from a message: priority 9 travels as 0."""
    mesh = {"v": 1, "class": "customer", "priority": 9, "needs": {"memory_gb": 12.0}, "sent_at": 1.0}
    delivery = {"exchange": "", "routing_key": "customer", "priority": 0, "redelivered": False}
    return Context(args=[], kwargs={}, id="1", delivery_info=delivery, headers={HEADER: mesh, "trace": "a"}, **fields)


def test_a_retry_keeps_the_callers_priority(define):
    """Q4: Celery copies the wire's 0, which would come out as low."""
    task = define()
    signature = task.signature_from_request(received(), retries=1)
    assert signature.options.get("priority") is None
    header = signature.apply_async().get()
    assert (header["class"], header["priority"], header["needs"]) == ("customer", 9, {"memory_gb": 12.0})


def test_a_retry_may_say_otherwise(define):
    """P1: `self.retry(queue=…, priority=…, memory_gb=…)`, as a call."""
    signature = define().signature_from_request(received(), queue="revenue", priority=3, memory_gb=2)
    header = signature.apply_async().get()
    assert (header["class"], header["priority"], header["needs"]) == ("revenue", 3, {"memory_gb": 2.0})


def test_a_retry_of_a_stock_producers_message(define):
    """DESIGN §4: without our header it counts as normal, in the queue it came from."""
    request = received()
    request.headers = {"trace": "a"}
    header = define().signature_from_request(request, retries=1).apply_async().get()
    assert (header["class"], header["priority"], header["needs"]) == ("customer", 5, {})


def test_a_retry_keeps_other_headers(define):
    """Issue 2.5: an application's own stay with the task."""
    signature = define().signature_from_request(received(), headers={"tenant": "b"})
    assert signature.options["headers"]["tenant"] == "b"
    assert HEADER in signature.options["headers"]
