"""Which notice goes out by which channel when (domain/announcing), and what channels are (domain/channels)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.alerts import Level, Notice
from gpu_mesh.domain.announcing import AT_ONCE, GIVE_UP_S, Try, failed, plan
from gpu_mesh.domain.channels import Channel, body, parse, scrub, title

NOW = 10_000.0
ONE, TWO = Channel(1, "slack", "slack://x", Level.WARNING), Channel(2, "mailto", "mailto://x", Level.CRITICAL)


def notice(number: int, subject: str = "", reach: int = Level.CRITICAL, at: float = NOW) -> Notice:
    return Notice(
        id=f"{number:04}", kind="raised", rule="r", subject=subject or f"n{number}", level=Level.ERROR, reach=reach,
        text="away", since=at, at=at,
    )  # fmt: skip


def ids(found: list[Notice]) -> list[str]:
    return [one.id for one in found]


def test_each_channel_hears_from_its_level_on():
    """H6; what nobody hears is finished."""
    found = plan([notice(1), notice(2, reach=Level.ERROR), notice(3, reach=Level.INFO)], {}, [ONE, TWO], NOW)
    assert {channel: ids(batch) for channel, batch in found.batch.items()} == {ONE: ["0001", "0002"], TWO: ["0001"]}
    assert found.finished == ["0003"]


def test_waits_for_another_try_and_for_those_before_it():
    """The end of an alert is not told before its beginning; others pass."""
    waits = {("0001", ONE.key): Try(1, NOW + 5)}
    notices = [notice(1, "a"), notice(2, "b"), notice(3, "a")]
    assert ids(plan(notices, waits, [ONE], NOW).batch[ONE]) == ["0002"]
    assert ids(plan(notices, waits, [ONE], NOW + 5).batch[ONE]) == ["0001", "0002"]
    done = {("0001", ONE.key): Try(is_done=True)}
    found = plan(notices, done, [ONE], NOW)
    assert ids(found.batch[ONE]) == ["0002", "0003"]
    assert found.finished == ["0001"]


def test_is_given_up_after_an_hour_of_tries():
    """What was never tried, for nobody was there, is tried."""
    old = notice(1, at=NOW - GIVE_UP_S)
    assert ids(plan([old], {}, [ONE], NOW).batch[ONE]) == ["0001"]
    found = plan([old], {("0001", ONE.key): Try(9, NOW + 5, "no")}, [ONE, TWO], NOW)
    assert found.given_up == [(old, ONE, "no")]
    assert ids(found.batch[TWO]) == ["0001"]
    assert found.finished == []


def test_waits_get_longer():
    """10 s, 20 s … 5 min, half of it jitter."""
    at, waits = Try(), []
    for _ in range(8):
        at = failed(at, "no", NOW, 1.0)
        waits.append(at.due - NOW)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    assert failed(Try(), "no", NOW, 0.0).due == NOW + 5


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([20, 40, 50])), max_size=30), st.randoms())
def test_everything_ends(given_: list[tuple[int, int]], chance):
    """Whatever fails, each channel is told each notice once, in the order of its subject, or it is given up."""
    notices = [notice(number, f"n{subject}", reach) for number, (subject, reach) in enumerate(given_)]
    tries: dict[tuple[str, str], Try] = {}
    told: list[tuple[str, str]] = []
    now, left = NOW, list(notices)
    for _ in range(2000):
        found = plan(left, tries, [ONE, TWO], now)
        left = [one for one in left if one.id not in found.finished]
        for one, channel, _ in found.given_up:
            tries[one.id, channel.key] = Try(is_done=True)
        for channel, batch in found.batch.items():
            assert len(batch) <= AT_ONCE
            for one in batch:
                key = (one.id, channel.key)
                if chance.random() < 0.5:
                    tries[key] = failed(tries.get(key, Try()), "no", now, chance.random())
                else:
                    tries[key] = Try(is_done=True)
                    told.append(key)
        if not left:
            break
        now += 7
    assert not left
    assert len(told) == len(set(told))
    for channel in (ONE, TWO):
        for subject in range(4):
            mine = [name for name, key in told if key == channel.key and notices[int(name)].subject == f"n{subject}"]
            assert mine == sorted(mine)


class TestAddresses:
    def test_are_told_apart_by_white_space(self):
        """Each `URL` or `LEVEL=URL`; in a file lines of # are comments; `=` within an address is its own."""
        text = "slack://a/b/c  critical=mailto://u:p@h?to=x@y\n# json://old\n INFO=jsons://h/x?a=b"
        found = parse(text, Level.ERROR)
        assert [(one.number, one.scheme, one.level) for one in found] == [
            (1, "slack", Level.ERROR), (2, "mailto", Level.CRITICAL), (3, "jsons", Level.INFO),
        ]  # fmt: skip
        assert found[2].url == "jsons://h/x?a=b"
        assert parse("", Level.INFO) == ()
        assert parse("json://h", Level.INFO, first=4)[0].label == "json (channel 4)"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("json://h s3cret", "address 2 is none: as apprise writes them"),
            ("s3cret:hunter2@host", "address 1 is none"),
            ("WARN=json://s3cret", "address 1: before its `=` one of INFO, WARNING, ERROR, CRITICAL"),
            ("json://", "address 1 is none"),
            ("CRITICAL=s3cret", "address 1 is none"),
        ],
    )
    def test_wrong_ones_are_named_by_number(self, text: str, says: str):
        """Nothing of what they hold is repeated."""
        with pytest.raises(ValueError, match=re.escape(says)) as refused:
            parse(text, Level.INFO)
        assert "s3cret" not in str(refused.value)

    def test_do_not_show_in_a_repr(self):
        assert "s3cret" not in repr(parse("json://h/s3cret", Level.INFO))

    @pytest.mark.parametrize(
        ("words", "url", "left"),
        [
            ("500 from h.example.org for bob", "mailtos://bob:s3cret@h.example.org", "500 from h.example.org for bob"),
            ("token T1JJ3T3L2/A1BRTD4JD refused", "slack://T1JJ3T3L2/A1BRTD4JD/s3cret", "token ***/*** refused"),
            ("o.s3cretkey\n bad", "pushbullet://o.s3cretkey", "*** bad"),
            ("pass s3 cret", "mailto://u:s3%20cret@h.org", "pass ***"),
            ("x" * 500, "json://h", "x" * 200),
        ],
    )  # fmt: skip
    def test_are_taken_out_of_what_was_said(self, words: str, url: str, left: str):
        assert scrub(words, url) == left


def test_a_message():
    """H6: title, and a body with remedy, since when, of which mesh."""
    one = notice(1, "gpu0@office")
    assert title(one) == "[gpu-mesh] ERROR gpu0@office: away"
    assert body(one, "office", str) == "gpu0@office: away\nSince: 10000.0\nRule: r\nMesh: office"
    long = Notice(kind="raised", rule="r", subject="s", level=Level.INFO, reach=20, text="x\r\n" * 200, since=0, at=0)
    assert len(title(long)) == 160
    assert "\n" not in title(long)
