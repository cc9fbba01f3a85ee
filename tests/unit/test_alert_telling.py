"""When an alert is told, to whom its end is, and what is held back (SPEC H5-H7): pure rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.alerts import (
    CALM_S,
    HELD,
    PASSED,
    WINDOW_S,
    Alert,
    Change,
    Level,
    Notice,
    Silence,
    Standing,
    Window,
    cleared,
    is_known,
    posted,
    summaries,
)

WARNING, ERROR, CRITICAL = Level.WARNING, Level.ERROR, Level.CRITICAL
RULE = "node"


class World:
    """One rule's alerts, as the store keeps them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.standing: dict[str, Standing] = {}
        self.windows: dict[Level, Window] = {}
        self.silences: list[Silence] = []
        self.notices: list[Notice] = []
        self.past: list[Standing] = []

    def post(self, subject: str = "n1", level: Level = ERROR, after_s: float = 0.0, text: str = "away") -> list[Notice]:
        self.now += after_s
        alert = Alert(rule=RULE, subject=subject, level=level, text=text)
        return self._take(
            subject, posted(self.standing.get(subject), alert, self.now, self.windows, self.silences), level
        )

    def clear(self, subject: str = "n1", after_s: float = 0.0) -> list[Notice]:
        self.now += after_s
        held = self.standing.get(subject)
        return [] if held is None else self._take(subject, cleared(held, "back", self.now, self.windows), ERROR)

    def summarise(self, after_s: float = 0.0) -> list[Notice]:
        self.now += after_s
        ended, told = summaries(RULE, self.windows, self.now)
        self.windows = {level: window for level, window in self.windows.items() if level not in ended}
        self.notices += told
        return told

    def _take(self, subject: str, change: Change, level: Level) -> list[Notice]:
        self.windows |= change.windows
        if change.standing is not None:
            self.standing[subject] = change.standing
        elif level > Level.INFO:
            self.standing.pop(subject, None)
        if change.past is not None:
            self.past.append(change.past)
        self.notices += change.notices
        return list(change.notices)


@pytest.fixture
def world() -> World:
    return World()


def kinds(notices: list[Notice]) -> list[tuple[str, str]]:
    return [(notice.kind, notice.level.name) for notice in notices]


def test_told_once_and_again_when_it_gets_graver(world: World):
    """H6: the same alert every 30 s is one message; WARNING → ERROR → CRITICAL are three; a fall is none."""
    assert kinds(world.post(level=WARNING)) == [("raised", "WARNING")]
    assert world.post(level=WARNING, after_s=30) == []
    assert kinds(world.post(level=ERROR, after_s=30)) == [("raised", "ERROR")]
    assert kinds(world.post(level=CRITICAL, after_s=30)) == [("raised", "CRITICAL")]
    assert world.post(level=WARNING, after_s=30) == []
    assert world.post(level=CRITICAL, after_s=30) == []
    held = world.standing["n1"]
    assert (held.since, held.level, held.top, held.seen_at) == (1000.0, CRITICAL, CRITICAL, world.now)


def test_a_rise_after_a_calm_is_told_anew(world: World):
    """What was degraded for ten minutes and is offline now is news, although it was offline before."""
    world.post(level=CRITICAL)
    for _ in range(int(CALM_S // 30) + 1):
        assert world.post(level=WARNING, after_s=30) == []
    (told,) = world.post(level=CRITICAL, after_s=30)
    assert (told.kind, told.since) == ("raised", 1000.0)


@pytest.mark.parametrize(
    ("level", "after_s", "known"),
    [(ERROR, 30.0, True), (CRITICAL, 30.0, False), (WARNING, 30.0, False), (ERROR, 60.0, False), (ERROR, -9.0, False)],
)
def test_what_is_posted_again_is_known(world: World, level: Level, after_s: float, known: bool):
    """H9: nothing is written for it, but now and then its words; never where something may have to be told."""
    world.post(level=ERROR)
    again = Alert(rule=RULE, subject="n1", level=level, text="away still")
    assert is_known(world.standing["n1"], again, world.now + after_s) is known


def test_what_is_not_told_yet_is_not_known(world: World):
    world.silences = [Silence(id="1", rule="*")]
    world.post()
    assert not is_known(world.standing["n1"], Alert(rule=RULE, subject="n1", level=ERROR, text=""), world.now)


def test_its_end_is_told_to_whom_it_was_told(world: World):
    """H6: INFO, how long it took, and the level by which channels are chosen is the gravest that was told."""
    world.post(level=WARNING)
    world.post(level=CRITICAL)
    world.post(level=WARNING, after_s=60)
    (over,) = world.clear(after_s=120)
    assert (over.kind, over.level, over.reach) == ("over", Level.INFO, CRITICAL)
    assert over.text == "recovered after 3 min: back"
    assert world.past[0].top is CRITICAL
    assert world.clear() == []


def test_an_event_is_told_and_over(world: World):
    """H6, INFO: routine. It touches no alert that stands."""
    world.post(level=ERROR)
    (event,) = world.post(level=Level.INFO, text="restarted")
    assert (event.kind, event.reach) == ("event", Level.INFO)
    assert world.standing["n1"].level is ERROR
    assert [one.text for one in world.past] == ["restarted"]


class TestSilence:
    def test_tells_nobody_neither_of_the_end(self, world: World):
        world.silences = [Silence(id="1", rule="no*", subject="*", until=2000.0)]
        assert world.post() == []
        assert world.standing["n1"].heard == 0
        assert world.clear() == []
        assert world.post(level=Level.INFO) == []

    def test_what_still_stands_at_its_end_is_told(self, world: World):
        world.silences = [Silence(id="1", rule=RULE, until=1100.0)]
        assert world.post() == []
        (told,) = world.post(after_s=100)
        assert (told.kind, told.since, told.at) == ("raised", 1000.0, 1100.0)

    def test_of_what_was_told_before_its_end_is_told(self, world: World):
        world.post()
        world.silences = [Silence(id="1", rule="*")]
        assert kinds(world.clear()) == [("over", "INFO")]

    @pytest.mark.parametrize(
        ("rule", "subject", "until", "holds"),
        [
            ("node", "n1", None, True), ("*", "*", None, True), ("no?e", "n[0-9]", 1001.0, True),
            ("node", "n2", None, False), ("device", "*", None, False), ("node", "*", 1000.0, False),
            ("Node", "*", None, False),
        ],
    )  # fmt: skip
    def test_patterns(self, rule: str, subject: str, until: float | None, holds: bool):
        assert Silence(id="1", rule=rule, subject=subject, until=until).holds("node", "n1", 1000.0) is holds


class TestRate:
    def test_the_others_are_one_line(self, world: World):
        """Issue 6 §4: a switch dies, twenty nodes with it."""
        for number in range(20):
            world.post(f"n{number}")
        assert len(world.notices) == PASSED
        assert world.summarise(WINDOW_S - 1) == []
        (line,) = world.summarise(1)
        assert line.text.startswith("node: and 15 more: n5, n6, ")
        assert line.text.endswith("n12, …")
        assert (line.kind, line.level, line.reach) == ("more", ERROR, ERROR)
        assert world.summarise(WINDOW_S) == []

    def test_a_graver_level_is_not_held_back_by_others(self, world: World):
        for number in range(10):
            world.post(f"n{number}", WARNING)
        assert kinds(world.post("n3", CRITICAL)) == [("raised", "CRITICAL")]

    def test_who_is_back_before_the_line_was_never_told_of(self, world: World):
        for number in range(PASSED + 2):
            world.post(f"n{number}")
        assert world.clear(f"n{PASSED}", after_s=60) == []
        (line,) = world.summarise(WINDOW_S)
        assert line.text == f"node: and 1 more: n{PASSED + 1}"
        assert kinds(world.clear(f"n{PASSED + 1}")) == [("over", "INFO")]

    def test_who_heard_of_a_lower_level_hears_of_the_end(self, world: World):
        """n9 was told as WARNING; its ERROR was held back."""
        world.post("n9", WARNING)
        for number in range(PASSED):
            world.post(f"n{number}")
        assert world.post("n9", ERROR) == []
        (over,) = world.clear("n9")
        assert over.reach == WARNING

    def test_a_window_that_is_over_is_told_by_the_next_post(self, world: World):
        for number in range(PASSED + 1):
            world.post(f"n{number}")
        assert [notice.kind for notice in world.post("late", after_s=WINDOW_S)] == ["more", "raised"]

    def test_ends_too(self, world: World):
        """Whoever hears CRITICAL alone hears of the ends of those."""
        for number in range(PASSED + 1):
            world.post(f"n{number}", CRITICAL if number else WARNING)
        for number in range(PASSED + 1):
            world.clear(f"n{number}")
        (line,) = world.summarise(WINDOW_S)
        assert (line.text, line.reach) == (f"node: and 1 more recovered: n{PASSED}", CRITICAL)

    def test_a_clock_that_was_set_back_holds_nothing_back(self, world: World):
        for number in range(PASSED):
            world.post(f"n{number}")
        assert kinds(world.post("n9", after_s=-500.0)) == [("raised", "ERROR")]

    def test_names_are_kept_within_bounds(self, world: World):
        for number in range(PASSED + HELD + 3):
            world.post(f"n{number}")
        assert len(world.windows[ERROR].held) == HELD
        (line,) = world.summarise(WINDOW_S)
        assert line.text.startswith(f"node: and {HELD + 3} more: ")


def test_what_is_kept_is_read_again():
    """Also with names of a newer version beside it."""
    held = Standing(rule=RULE, subject="n1", level=ERROR, text="away", top=CRITICAL, heard=50)
    assert Standing.from_dict({**held.to_dict(), "later": 1}) == held
    notice = Notice(kind="raised", rule=RULE, subject="n1", level=ERROR, reach=40, text="away", since=1.0, at=2.0)
    assert Notice.from_dict({**notice.to_dict(), "later": 1}) == notice


def test_long_words_are_cut():
    change = posted(None, Alert(rule="r" * 999, subject="s" * 999, level=ERROR, text="a\nb " * 999), 0.0, {})
    assert change.standing is not None
    assert (len(change.standing.rule), len(change.standing.subject), len(change.standing.text)) == (200, 200, 1000)
    assert "\n" not in change.standing.text


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["post", "post", "post", "clear", "summarise"]),
        st.sampled_from([f"n{number}" for number in range(9)]),
        st.sampled_from([WARNING, ERROR, CRITICAL]),
        st.sampled_from([0.0, 1.0, 30.0, 300.0, WINDOW_S]),
    ),
    max_size=60,
)


@given(STEPS)
def test_nothing_is_told_twice_and_nothing_is_forgotten(steps: list[tuple[str, str, Level, float]]):
    """Whatever happens: no repeat without a rise, bounded numbers, no end of what was never told, all is told of in
    the end."""
    world = World()
    highest: dict[str, Level] = {}
    lower_at: dict[str, float] = {}
    told: dict[str, Level] = {}
    for what, subject, level, after_s in steps:
        before = len(world.notices)
        if what == "post":
            world.post(subject, level, after_s)
        elif what == "clear":
            world.clear(subject, after_s)
        else:
            world.summarise(after_s)
        for notice in world.notices[before:]:
            if notice.kind == "raised":
                calm = world.now - lower_at.get(notice.subject, world.now) >= CALM_S
                assert notice.subject not in highest or notice.level > highest[notice.subject] or calm
                highest[notice.subject] = notice.level
                told[notice.subject] = max(told.get(notice.subject, notice.level), notice.level)
            elif notice.kind == "more":
                for name in notice.text.partition(": ")[2].split(", "):
                    told[name] = max(told.get(name, notice.level), notice.level)
            else:
                assert notice.subject in told
        if what == "clear":
            for state in (highest, lower_at, told):
                state.pop(subject, None)
        elif what == "post" and subject in highest:
            if level < highest[subject]:
                lower_at.setdefault(subject, world.now)
            else:
                lower_at.pop(subject, None)
    assert all(window.passed <= PASSED for window in world.windows.values())
    last = {name for window in world.windows.values() for name in window.held}
    assert set(world.standing) <= told.keys() | last


@given(STEPS)
def test_a_silenced_mesh_is_silent(steps: list[tuple[str, str, Level, float]]):
    """And when the silence ends all that stands is told with its next post, or held back by the rate."""
    world = World()
    world.silences = [Silence(id="1", rule="*")]
    for what, subject, level, after_s in steps:
        if what == "post":
            world.post(subject, level, after_s)
        elif what == "clear":
            world.clear(subject, after_s)
    assert world.notices == []
    world.silences = []
    standing = dict(world.standing)
    for subject, held in standing.items():
        world.post(subject, held.level)
    held_back = {name for window in world.windows.values() for name in window.held}
    assert {notice.subject for notice in world.notices} | held_back == set(standing)
