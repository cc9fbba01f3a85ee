"""Names of everything the mesh keeps in Redis beside Celery's own keys. Full names: nothing adds a prefix later."""

from __future__ import annotations

import re

__all__ = [
    "AGAIN",
    "ALERTS",
    "ALERTS_PAST",
    "ALERT_RATES",
    "ANNOUNCED",
    "ANNOUNCER",
    "BEAT",
    "BEAT_RUNS",
    "CHECKER",
    "CORDONS",
    "DEAD",
    "DELAYED",
    "ENDED",
    "ENDED_FIRST",
    "FINISHED",
    "FOOTPRINTS",
    "GATES",
    "GRACE",
    "HEALTH",
    "LATER",
    "LEASES",
    "LOOKER",
    "NODES",
    "OUTAGE",
    "OUTBOX",
    "PREEMPTIONS",
    "PREFIX",
    "PURGED",
    "REFUSED",
    "REPAIRS",
    "REPORTS",
    "REVOKED",
    "SILENCES",
    "STATE",
    "STATS",
    "TICKS",
    "TOKENS",
    "TOKENS_NEEDED",
    "TOKENS_USED",
    "TRIES",
    "UNTOLD",
    "WATCH",
    "WINDOWS",
    "asks",
    "checkpoint",
    "claims",
    "count",
    "held",
    "mending",
    "oldest",
    "orders",
    "preempted",
    "progress",
    "queue_of",
    "ranking",
    "realtime",
    "reservation",
    "stream",
    "wake",
]

PREFIX = "gpumesh:"
#: hash: node name → registration as JSON.
NODES = f"{PREFIX}nodes"
#: list: the last finished tasks as JSON, newest first, capped.
FINISHED = f"{PREFIX}finished"
#: list: runs that ended and are in no counter yet, oldest first; and string: number of its first, see lua/_ended.lua.
ENDED, ENDED_FIRST = f"{PREFIX}ended", f"{PREFIX}ended:first"
#: list: the last statistics reports as JSON, newest first.
REPORTS = f"{PREFIX}reports"
#: hash: type of device and model as JSON → GB it was seen to take, and when.
FOOTPRINTS = f"{PREFIX}footprints"
#: zset: delivery tag of a message whose time has not come → when it is due; and hash: tag → its list and envelope.
DELAYED, LATER = f"{PREFIX}delayed", f"{PREFIX}later"
#: zset: worker → end of its lease, s by Redis's clock.
LEASES = f"{PREFIX}leases"
#: string: until when no lease counts as ended, µs, see renew.lua.
GRACE = f"{PREFIX}grace"
#: hash: what closes claims, see claim.lua.
STATE = f"{PREFIX}state"
#: hash: <queue>|<reason>@<scope> → JSON: since when and by whom a queue is closed, see gates.py.
GATES = f"{PREFIX}gates"
#: hash: <reason>@<name> → JSON: since when and by whom a node or worker claims nothing, see cordons.py.
CORDONS = f"{PREFIX}cordons"
#: hash: what holds for the windows, see windows.py.
WINDOWS = f"{PREFIX}windows"
#: list: messages that cannot be run, newest first: JSON, newline, envelope.
DEAD = f"{PREFIX}dead"
#: zset: id of a task that was taken back → until when that is remembered, s by Redis's clock.
REVOKED = f"{PREFIX}revoked"
#: hash: delivery tag of a message that was given back → since when it waits, and how often it was handed out.
AGAIN = f"{PREFIX}again"
#: hash: <queue>|<worker> → how many jobs were preempted.
PREEMPTIONS = f"{PREFIX}preemptions"
#: hash: what scripts counted, see stats.py; and hash: what the mesh's own periodic work took, see lua/ticked.lua.
STATS, TICKS = f"{PREFIX}stats", f"{PREFIX}ticks"
#: list: messages of a purge that are in no queue any more and not marked as revoked yet.
PURGED = f"{PREFIX}purged"
#: string: JSON, when somebody could do realtime work last; and while nobody can, expiring: since when and why.
WATCH, OUTAGE = f"{PREFIX}watch", f"{PREFIX}outage"
#: string: one looks at that now, expiring; and list: messages that are in no queue any more, to be failed.
LOOKER, REFUSED = f"{PREFIX}looker", f"{PREFIX}refused"
#: string: the beat that leads, expiring; and hash: name of a periodic entry → when it was last due, s by Redis's clock.
BEAT, BEAT_RUNS = f"{PREFIX}beat", f"{PREFIX}beat:runs"

#: hash: <rule>|<subject> → alert that stands, JSON; list: alerts that are over, newest first, capped; see alerts.py.
ALERTS, ALERTS_PAST = f"{PREFIX}alerts", f"{PREFIX}alerts:past"
#: hash: rule → what was told of it lately, JSON; hash: id → silence, JSON.
ALERT_RATES, SILENCES = f"{PREFIX}alerts:rates", f"{PREFIX}alerts:silences"
#: hash: id → notice that goes to channels, JSON; hash: <id>|<channel> → how that went so far, JSON; see outbox.py.
OUTBOX, TRIES = f"{PREFIX}alerts:outbox", f"{PREFIX}alerts:tries"
#: string: somebody has channels, expiring; and string: who sends now, expiring.
ANNOUNCED, ANNOUNCER = f"{PREFIX}alerts:announced", f"{PREFIX}alerts:announcer"
#: hash: node, device or watched address → JSON, see health.py; and string: one checks now, expiring.
HEALTH, CHECKER = f"{PREFIX}health", f"{PREFIX}checker"

#: lists: the last attempts to repair an engine as JSON, newest first, capped; and those that nobody was told of.
REPAIRS, UNTOLD = f"{PREFIX}repairs", f"{PREFIX}repairs:untold"

#: hash: id of an API token → it, JSON, without its secret; hash: id → when it was used last; string: is one needed.
TOKENS, TOKENS_USED, TOKENS_NEEDED = f"{PREFIX}tokens", f"{PREFIX}tokens:used", f"{PREFIX}tokens:needed"


def oldest(queue: str, band: str) -> str:
    """zset: groups of waiting messages of one queue and band → when their oldest one came, µs, see lua/_index.lua."""
    return f"{PREFIX}class:{queue}|{band}"


def orders(node: str) -> str:
    """list: repairs that a node is to do, newest first, as JSON; expiring."""
    return f"{PREFIX}orders:{node}"


def mending(node: str) -> str:
    """list: the repair that a node does now, as JSON; expiring."""
    return f"{PREFIX}mending:{node}"


def progress(task_id: str) -> str:
    """hash: part's task id → how much it did."""
    return f"{PREFIX}progress:{task_id}"


def checkpoint(task_id: str) -> str:
    """string: the state a task saved last, as JSON."""
    return f"{PREFIX}checkpoint:{task_id}"


def stream(task_id: str) -> str:
    """stream: what the task's current run said so far, see streams.py."""
    return f"{PREFIX}stream:{task_id}"


def claims(worker: str) -> str:
    """hash: delivery tag → claim, see claim.lua."""
    return f"{PREFIX}claims:{worker}"


def count(span: str, number: int | None = None) -> str:
    """hash: what ended in a span of time, see counters.py; `minute` or `ten` has a number, `all` none."""
    return f"{PREFIX}count:{span}" if number is None else f"{PREFIX}count:{span}:{number}"


def held(worker: str) -> str:
    """string, expiring: GB of its device that strangers hold."""
    return f"{PREFIX}held:{worker}"


def realtime(scope: str) -> str:
    """zset: realtime jobs that hold batch work back in a scope, see lua/_holds.lua."""
    return f"{PREFIX}realtime:{scope}"


def reservation(name: str) -> str:
    """hash: task ids that are reserved for a request, see lua/reserve.lua; expiring."""
    return f"{PREFIX}reserved:{name}"


def wake(worker: str) -> str:
    """list: what an idle worker waits on."""
    return f"{PREFIX}wake:{worker}"


def asks(worker: str) -> str:
    """list: what a worker is to hear of preemption, see lua/_victim.lua."""
    return f"{PREFIX}asks:{worker}"


def preempted(tag: str) -> str:
    """string: how often the message of that delivery tag was preempted."""
    return f"{PREFIX}preempted:{tag}"


def ranking(needs: str, mode: str) -> str:
    """zset: worker → node score for the needs of that number, by mode of placement."""
    return f"{PREFIX}fit:{needs}:{mode}"


def queue_of(name: str) -> str:
    """The queue of a Redis list: `ai-batch:3` is one of `ai-batch`."""
    return re.sub(r":[369]$", "", name)
