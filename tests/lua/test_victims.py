"""Who yields to what waits (DESIGN §7): script = model; an ask dies with its claim and stands in nobody's way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from claiming import Device, claimed_at, envelope, new_tag, publish, send
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from gpu_mesh.domain.preemption import INTERACTIVE, PATIENCE_S, VICTIMS, Ask, Demand, Rules, Running, victims
from gpu_mesh.domain.queues import Band
from gpu_mesh.store import claims, cordons, gates, keys, leases, preemption, ranking

WORKERS = {"gpu0@a": 8.0, "gpu1@a": 24.0, "gpu0@b": 24.0, "gpu1@b": 24.0}
NEEDS = ({}, {"memory_gb": 16})
#: Ripe at once, and not for long; spent after two.
RIPE, YOUNG = Rules(after_s=0, limit=2), Rules(after_s=1000, limit=2)
ASKED = "gpumesh:asked"


def number_of(client: redis.Redis, needs: dict) -> str:
    return str(script_needs(client, needs))


def script_needs(client: redis.Redis, needs: dict) -> str | None:
    text = "{}" if not needs else f'{{"memory_gb": {needs["memory_gb"]}}}'
    return client.hget("gpumesh:needs", f"={text}")


def fitting(gb: float) -> list[dict]:
    return [needs for needs in NEEDS if needs.get("memory_gb", 0) <= gb]


class Yielding(RuleBasedStateMachine):
    """Messages come, workers claim, end, die and look, gates close, in any order; the model says who is asked."""

    client: redis.Redis

    @initialize()
    def begin(self):
        self.empty()

    def empty(self):
        self.client.flushdb()
        self.devices = [Device(self.client, name, max_gb=gb).start() for name, gb in WORKERS.items()]
        self.jobs: dict[str, Running] = {}
        self.waiting: dict[str, tuple[str, int, bool]] = {}
        self.times: dict[str, int] = {}
        self.held: dict[str, tuple[str, int, bool]] = {}
        self.ranked: set[int] = set()
        self.closed: set[tuple[str, str]] = set()

    @rule(
        order=st.permutations(range(len(WORKERS))),
        queues=st.lists(st.sampled_from(VICTIMS), min_size=len(WORKERS), max_size=len(WORKERS)),
        kinds=st.lists(st.sampled_from(["plain", "plain", "never", "young"]), min_size=4, max_size=4),
        judged=st.sets(st.sampled_from(range(len(NEEDS))), min_size=1),
        idle=st.sampled_from([None, None, *range(len(WORKERS))]),
        urgent=st.lists(
            st.tuples(st.sampled_from(INTERACTIVE), st.integers(0, len(NEEDS) - 1)), min_size=1, max_size=5
        ),
        looks=st.integers(0, len(WORKERS) - 1),
    )
    def anew(self, order, queues, kinds, judged, idle, urgent, looks):
        """Each device runs a background job, but for one that may be idle; then urgent work comes."""
        self.empty()
        for place in order:
            if place == idle:
                assert self.devices[place].claim() is None
                continue
            self.publish(queues[place], 0, Band.NORMAL, kinds[place] == "never")
            self.claim(place, YOUNG if kinds[place] == "young" else RIPE)
        for which in range(len(NEEDS)):
            publish(self.client, "rfa", Band.NORMAL, NEEDS[which], new_tag())  # the store gives them their number
            if which in judged:
                self.a_worker_judges(which)
        for queue, which in urgent:
            self.publish(queue, which, Band.NORMAL, False)
        self.look(looks)

    def fits(self, looks: str | None) -> dict[str, set[str]]:
        found = {}
        for which, needs in enumerate(NEEDS):
            able = {name for name, gb in WORKERS.items() if needs in fitting(gb)}
            number = script_needs(self.client, needs)
            if number is not None:
                found[number] = able if which in self.ranked else able & {looks}
        return found

    def idle(self) -> dict[str, set[str]]:
        return {queue: set(self.client.zrange(f"gpumesh:idle:{queue}", 0, -1)) for queue in INTERACTIVE}

    def demands(self) -> list[Demand]:
        counts: dict[tuple[str, str], int] = {}
        for queue, which, _ in self.waiting.values():
            if queue in INTERACTIVE and (queue, "*") not in self.closed:
                key = queue, number_of(self.client, NEEDS[which])
                counts[key] = counts.get(key, 0) + 1
        return [Demand(queue, needs, count) for (queue, needs), count in counts.items()]

    def running(self) -> list[Running]:
        return [
            replace(
                job,
                closed=frozenset(q for q, scope in self.closed if scope in (job.worker, job.worker.partition("@")[2])),
            )
            for job in self.jobs.values()
        ]

    def check(self, expected: list[tuple[Running, Ask]]) -> None:

        for job, ask in expected:
            self.jobs[job.tag] = replace(self.jobs[job.tag], asked=ask)
        told = {
            member.partition("\t")[2]: value.partition(" ")[2] for member, value in self.client.hgetall(ASKED).items()
        }
        living = {tag: what for tag, what in told.items() if tag in self.jobs}
        assert living == {
            tag: f"{job.asked.needs}|{job.asked.queue}" for tag, job in self.jobs.items() if job.asked is not None
        }

    def now(self) -> float:
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    @rule(
        queue=st.sampled_from(["customer", "ai-realtime", "ai-realtime", "internal", "ai-batch"]),
        which=st.integers(0, len(NEEDS) - 1),
        band=st.sampled_from([Band.NORMAL, Band.CRITICAL]),
        never=st.sampled_from([False, False, True]),
    )
    def publish(self, queue, which, band, never):
        tag, idle, jobs = new_tag(), self.idle(), self.running()
        publish(self.client, queue, band, NEEDS[which], tag, **({"preemptible": False} if never else {}))
        self.waiting[tag] = queue, which, never
        expected: list[tuple[Running, Ask]] = []
        if queue in INTERACTIVE:
            number = number_of(self.client, NEEDS[which])
            own = [demand for demand in self.demands() if (demand.queue, demand.needs) == (queue, number)]
            expected = list(victims(jobs, own, self.fits(None), idle, now=self.now(), rules=RIPE))[:1]
        self.check(expected)

    @rule(which=st.integers(0, 3), rules=st.sampled_from([RIPE, RIPE, RIPE, YOUNG]))
    def claim(self, which, rules):
        device = self.devices[which]
        if device.held or not self.waiting:
            return
        device.yielding = rules
        claimed = device.claim()
        if isinstance(claimed, claims.Claimed):
            queue, _needs, never = self.held[claimed.tag] = self.waiting.pop(claimed.tag)
            if queue in VICTIMS:
                began = claimed_at(self.client, device.worker, claimed.tag)
                self.jobs[claimed.tag] = Running(
                    worker=device.worker,
                    tag=claimed.tag,
                    queue=queue,
                    began=began + rules.after_s,
                    preemptible=not never,
                    preempted=self.times.get(claimed.tag, 0),
                )

    @rule(which=st.integers(0, 3), how=st.sampled_from(["ack", "preempt", "preempt", "stop", "reap", "hand"]))
    def end(self, which, how):
        device = self.devices[which]
        if not device.held:
            return
        [tag] = device.held
        device.held.clear()
        self.jobs.pop(tag, None)
        was = self.held.pop(tag)
        if how == "ack":
            assert claims.ack(self.client, device.worker, tag)
        elif how == "hand":  # scripts of before there was preemption leave its account behind
            self.client.delete(keys.claims(device.worker))
        elif how == "reap":
            leases.reap(self.client, max_deliveries=1000, worker=device.worker)
            device.start()
            self.waiting[tag] = was
        else:
            claims.hand_back(
                self.client, device.worker, tag, counts=False, max_deliveries=1000, preempted=how == "preempt"
            )
            self.times[tag] = self.times.get(tag, 0) + (how == "preempt")
            self.waiting[tag] = was
        self.check([])

    @rule(which=st.integers(0, len(NEEDS) - 1))
    def a_worker_judges(self, which):
        """Who first judges needs enters everybody's score."""
        number = script_needs(self.client, NEEDS[which])
        if number is not None:
            self.ranked.add(which)
            for name, gb in WORKERS.items():
                if NEEDS[which] in fitting(gb):
                    ranking.rank(self.client, name, number, {"normal": 1.0, "critical": 1.0, "low": 1.0})

    @rule(queue=st.sampled_from(INTERACTIVE[1:]), scope=st.sampled_from(["*", "a", "gpu0@b"]), shut=st.booleans())
    def gate(self, queue, scope, shut):
        if shut:
            gates.close(self.client, queue, "manual", scope=scope)
            self.closed.add((queue, scope))
        else:
            gates.reopen(self.client, queue, "manual", scope=scope)
            self.closed.discard((queue, scope))

    @precondition(lambda self: any(job.asked for job in getattr(self, "jobs", {}).values()))
    @rule()
    def nobody_heeds(self):
        """PATIENCE_S go by."""
        for member, value in self.client.hgetall(ASKED).items():
            since, _, what = value.partition(" ")
            self.client.hset(ASKED, member, f"{int(since) - round(PATIENCE_S * 1e6)} {what}")
        for tag, job in self.jobs.items():
            if job.asked is not None:
                self.jobs[tag] = replace(job, asked=replace(job.asked, at=job.asked.at - PATIENCE_S))

    @rule(which=st.integers(0, 3))
    def look(self, which):
        """What a worker does each second."""
        device = self.devices[which]
        if not device.held:
            return
        numbers = {needs: str(script_needs(self.client, dict(needs))) for needs in map(frozenset_of, NEEDS)}
        own = {numbers[frozenset_of(needs)] for needs in fitting(device.max_gb)}
        jobs, idle, demands = self.running(), self.idle(), self.demands()
        told = preemption.seek(self.client, device.worker, fits=own, misfits=set(numbers.values()) - own, settle_s=0.0)
        assert isinstance(told, preemption.Asked)
        expected = list(victims(jobs, demands, self.fits(device.worker), idle, now=self.now(), rules=RIPE))
        tags = [tag for tag, job in self.jobs.items() if job.worker == device.worker]
        waits = {number_of(self.client, NEEDS[w]) for q, w, _ in self.waiting.values() if q in INTERACTIVE}
        if not waits & own:
            self.jobs.update({tag: replace(self.jobs[tag], asked=None) for tag in tags})
        self.check(expected)
        assert dict(told.jobs) == {tag: job.asked.queue for tag in tags if (job := self.jobs[tag]).asked}


def frozenset_of(needs: dict) -> tuple:
    return tuple(needs.items())


def test_script_and_model_agree_on_who_yields(client: redis.Redis):
    """DESIGN §7, whoever publishes, claims, ends, dies or looks in whatever order."""

    class Bound(Yielding):
        pass

    Bound.client = client
    run_state_machine_as_test(Bound, settings=settings(max_examples=50, stateful_step_count=30, deadline=None))


@pytest.fixture
def busy(client: redis.Redis) -> list[Device]:
    """Three workers with a batch job each, the last one's the youngest; needs without any are judged by all."""
    found = [Device(client, name, yielding=RIPE).start() for name in ("gpu0@a", "gpu1@a", "gpu0@b")]
    for device in found:
        send(client, "ai-batch")
        assert device.claim() is not None
        rank(client, device)
    return found


def rank(client: redis.Redis, device: Device) -> None:
    number = script_needs(client, {})
    assert number is not None
    ranking.rank(client, device.worker, number, {"normal": 1.0, "critical": 1.0, "low": 1.0})


def asked(client: redis.Redis) -> list[str]:
    """Workers whose jobs are asked to yield."""
    return sorted(member.partition("\t")[0] for member in client.hgetall(ASKED))


def seek(client: redis.Redis, device: Device, settle_s: float = 0.0) -> preemption.Asked | preemption.Unjudged:
    numbers = {number for name, number in client.hgetall("gpumesh:needs").items() if name.startswith("=")}
    return preemption.seek(client, device.worker, fits=numbers, misfits=(), settle_s=settle_s)


def older(client: redis.Redis, seconds: float) -> None:
    """The asks were made so much earlier."""
    for member, value in client.hgetall(ASKED).items():
        since, _, what = value.partition(" ")
        client.hset(ASKED, member, f"{int(since) - round(seconds * 1e6)} {what}")


def test_a_publish_tells_the_victim(client, busy):
    """R3, DESIGN §7: the one that began last hears its tag and the queue for which; the next publish asks the next."""
    [tag] = busy[2].held
    send(client, "customer")
    assert preemption.hear(client, busy[2].worker, 1) == (tag, "customer")
    assert asked(client) == [busy[2].worker]
    send(client, "customer")
    assert asked(client) == ["gpu0@b", "gpu1@a"]
    assert seek(client, busy[2]) == preemption.Asked({tag: "customer"})


@pytest.mark.parametrize("queue", VICTIMS)
def test_background_work_makes_nobody_yield(client, busy, queue):
    """Q5: only the interactive tier does."""
    send(client, queue)
    seek(client, busy[0])
    assert asked(client) == []


def test_another_is_asked_once_patience_is_over(client, busy):
    """DESIGN §7: a victim that hangs, or saves nothing, must not keep a user waiting; it is not asked again itself."""
    send(client, "customer")
    older(client, PATIENCE_S - 0.5)
    seek(client, busy[0])
    assert asked(client) == ["gpu0@b"]
    older(client, 0.5)
    seek(client, busy[0])
    assert asked(client) == ["gpu0@b", "gpu1@a"]


def test_where_the_queue_is_closed_nobody_yields(client, busy):
    """DESIGN §7: for what is closed to a worker, or while it is cordoned, its job would yield for nothing."""
    gates.close(client, "customer", "manual", scope="b")
    cordons.cordon(client, "gpu1@a", "drain", why="test")
    send(client, "customer")
    assert asked(client) == ["gpu0@a"]
    gates.close(client, "customer", "manual")
    send(client, "customer")
    seek(client, busy[0])
    assert asked(client) == ["gpu0@a"]


def test_a_job_is_preempted_so_often_and_no_more(client):
    """No livelock: past the limit it runs to its end; every time is counted, by queue and worker."""
    device = Device(client, yielding=Rules(after_s=0, limit=2)).start()
    tag = send(client, "ai-batch")
    for times in range(3):
        assert device.claim().tag == tag
        rank(client, device)
        assert preemption.times(client, [tag, "other"]) == ({tag: times} if times else {})
        urgent = send(client, "ai-realtime")
        assert asked(client) == ([device.worker] if times < 2 else [])
        if times < 2:
            claims.hand_back(client, device.worker, tag, counts=False, max_deliveries=1, preempted=True)
            device.held.clear()
            assert device.claim().tag == urgent
            device.ack(urgent)
    assert preemption.counts(client) == {("ai-batch", device.worker): 2}
    seek(client, device)
    assert asked(client) == []


def test_while_one_that_fits_is_idle_nobody_yields(client, busy):
    """DESIGN §7: neither at once nor at a look; one that does not fit keeps nobody from being asked."""
    fourth = Device(client, "gpu1@b").start()
    assert fourth.claim() is None
    send(client, "ai-realtime")
    assert asked(client) == ["gpu0@b"]
    client.delete(ASKED)
    rank(client, fourth)
    assert fourth.claim() is not None
    assert fourth.ack(next(iter(fourth.held)))
    assert fourth.claim() is None
    client.zadd("gpumesh:idle:revenue", {fourth.worker: 1})
    send(client, "revenue")
    client.zadd("gpumesh:idle:revenue", {fourth.worker: 1})
    seek(client, busy[0])
    assert asked(client) == []


@pytest.mark.parametrize("how", ["ack", "requeue", "bury", "delay", "reap"])
def test_an_ask_dies_with_its_claim(client, busy, how):
    """DESIGN §7: however the claim ends; what waits may ask another one at once."""
    victim = busy[2]
    [tag] = victim.held
    send(client, "customer")
    if how == "ack":
        claims.ack(client, victim.worker, tag)
    elif how == "requeue":
        claims.hand_back(client, victim.worker, tag, counts=True, max_deliveries=9)
    elif how == "bury":
        claims.bury(client, victim.worker, tag, why="test")
    elif how == "delay":
        claims.delay(client, "ai-batch:6", "{}", tag, 4e9, worker=victim.worker)
    else:
        leases.reap(client, worker=victim.worker, max_deliveries=9)
    assert asked(client) == []
    assert client.zrange("gpumesh:running:ai-batch", 0, -1) == [
        f"{one.worker}\t{next(iter(one.held))}" for one in busy[:2]
    ]
    seek(client, busy[0])
    assert asked(client) == ["gpu1@a"]


def test_a_dead_worker_is_not_asked(client, busy):
    """A machine that vanished: its lease has ended, its claim is not reaped yet."""
    client.zadd(keys.LEASES, {busy[2].worker: 1})
    send(client, "customer")
    assert asked(client) == ["gpu1@a"]


def test_what_was_served_elsewhere_is_asked_of_nobody(client, busy):
    """DESIGN §7: the ask is taken back by the victim's next look."""
    tag = send(client, "customer")
    other = Device(client, "gpu1@b").start()
    assert other.claim().tag == tag
    assert seek(client, busy[2]) == preemption.Asked()
    assert asked(client) == []


def test_needs_that_nobody_judged_are_looked_at_by_the_victims(client, busy):
    """DESIGN §7: all were busy when such needs first came; one judges, and yields."""
    publish(client, "customer", Band.NORMAL, {"memory_gb": 16}, new_tag())
    assert asked(client) == []
    assert [preemption.hear(client, device.worker, 1) for device in busy] == [("", "")] * 3
    told = preemption.seek(client, busy[1].worker, fits=(), misfits=(), settle_s=0.0)
    assert isinstance(told, preemption.Unjudged)
    [number] = [number for number, text in told.needs.items() if text == '{"memory_gb": 16}']
    told = preemption.seek(client, busy[1].worker, fits=[number], misfits=(), settle_s=0.0)
    assert told == preemption.Asked({next(iter(busy[1].held)): "customer"})


def test_a_look_finds_what_a_stock_producer_sent(client, busy):
    """DESIGN §4: such a message wakes nobody and is in no index, while all who would claim are busy."""
    client.lpush("ai-realtime:6", envelope(new_tag()))
    seek(client, busy[0])
    assert asked(client) == ["gpu0@b"]


def test_a_message_that_may_be_on_its_way_counts_for_no_look(client, busy):
    """A woken worker takes a moment; who looks by the clock looks once more."""
    client.delete(f"gpumesh:fit:{script_needs(client, {})}:normal")
    send(client, "customer")
    assert seek(client, busy[0], settle_s=60.0) == preemption.Asked(again=True)
    assert asked(client) == []
    assert seek(client, busy[0]) != preemption.Asked()


def test_a_job_of_several_devices_makes_nobody_yield(client, busy):
    """One that yields would stand idle until the others are free too."""
    tag = new_tag()
    publish(client, "customer", Band.NORMAL, {"gpu_count": 2}, tag)
    seek(client, busy[0])
    assert asked(client) == []


def test_who_does_not_take_realtime_work_never_yields(client):
    """A worker of background queues alone would hand back its job and take it again, for ever."""
    device = Device(client, yielding=RIPE, queues=VICTIMS).start()
    send(client, "ai-batch")
    device.claim()
    rank(client, device)
    send(client, "customer")
    assert asked(client) == []


def test_spared(client, busy):
    """A task that declares it, sent by a producer that does not say so."""
    preemption.spare(client, busy[2].worker, next(iter(busy[2].held)), "ai-batch")
    send(client, "customer")
    assert asked(client) == ["gpu1@a"]


def test_a_full_redis_lets_jobs_yield(client, busy):
    """DESIGN §9: looking, asking and handing back need no memory."""
    client.lpush("ai-realtime:6", envelope(new_tag()))
    client.config_set("maxmemory", 1)
    seek(client, busy[0])
    [tag] = busy[2].held
    assert claims.hand_back(client, busy[2].worker, tag, counts=False, max_deliveries=9, preempted=True)
    client.config_set("maxmemory", 0)
    assert preemption.times(client, [tag]) == {tag: 1}


def test_what_names_no_job_stops_neither_a_publish_nor_a_look(client, busy):
    """A publish that raised after it had put its message there would have its sender send it again."""
    seconds, micros = client.time()
    now = seconds * 10**6 + micros
    client.zadd("gpumesh:running:ai-batch", {"no tab": now, "": now, "gpu0@a\tgone": now})
    client.hset(ASKED, mapping={"": "", "no tab": "x", "a\tb": "nan |"})
    send(client, "customer")
    assert asked(client) == ["gpu0@b"]
    assert isinstance(seek(client, busy[0]), preemption.Asked)
    assert client.zcard("gpumesh:running:ai-batch") == len(busy)
