"""The order of claims (SPEC Q1-Q5, P7): properties of the reference model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpu_mesh.domain.claim import Claimant, Group, Rules, ceiling, choose, score, start
from gpu_mesh.domain.queues import GPU_QUEUES, QUEUES, Band, Tier

NOW = 1e9
RULES = Rules()
TIERS = {queue.name: queue.tier for queue in QUEUES}
ANY = Claimant(fits={"fits"})
GROUPS = st.lists(
    st.builds(
        Group,
        queue=st.sampled_from(GPU_QUEUES),
        band=st.sampled_from(list(Band)),
        needs=st.sampled_from(["fits", "not"]),
        model=st.sampled_from([None, "a", "b"]),
        at=st.floats(0, NOW) | st.sampled_from([NOW, NOW - 1800, NOW - 60]),
        uid=st.text("0123456789", min_size=3, max_size=3),
    ),
    max_size=12,
)
AGES = st.floats(0, 1e9)
BANDS = st.sampled_from(list(Band))


@given(groups=GROUPS, loaded=st.sampled_from([None, "a", "b"]))
def test_background_never_passes_interactive_work_that_fits(groups, loaded):
    """Q5, whatever the ages."""
    best = choose(groups, Claimant(fits={"fits"}, loaded=loaded), now=NOW, rules=RULES)
    fitting = [group for group in groups if group.needs == "fits"]
    assert (best is None) == (not fitting)
    if best is not None and TIERS[best.queue] is Tier.BACKGROUND:
        assert all(TIERS[group.queue] is Tier.BACKGROUND for group in fitting)


@given(groups=GROUPS, loaded=st.sampled_from([None, "a", "b"]))
def test_nothing_passes_revenue(groups, loaded):
    """Q2."""
    best = choose(groups, Claimant(fits={"fits"}, loaded=loaded), now=NOW, rules=RULES)
    if any(group.queue == "revenue" and group.needs == "fits" for group in groups):
        assert best is not None
        assert best.queue == "revenue"


@given(queue=st.sampled_from(GPU_QUEUES), band=BANDS, age=AGES)
def test_no_score_passes_its_ceiling(queue, band, age):
    value = score(queue, band, age, RULES)
    assert start(queue, band) <= value <= ceiling(queue) or value == ceiling(queue)
    above = {Tier.INTERACTIVE: "revenue", Tier.BACKGROUND: "ai-realtime"}[TIERS[queue]]
    if queue != "revenue":
        assert value < start(above, Band.LOW)


@given(queue=st.sampled_from(GPU_QUEUES), band=BANDS, age=AGES, more=AGES)
def test_who_waits_longer_scores_no_less(queue, band, age, more):
    assert score(queue, band, age + more, RULES) >= score(queue, band, age, RULES)


@given(
    old=st.sampled_from([(q, b) for q in GPU_QUEUES if q != "revenue" for b in Band]),
    new=st.sampled_from([(q, b) for q in GPU_QUEUES for b in Band]),
    excess=st.floats(0.001, 1e6),
    late=st.floats(0, 1e6),
)
def test_every_message_is_claimed_within_a_bound(old, new, excess, late):
    """Q5: past the horizon nothing of its tier that came later goes first, so only what was there before does."""
    (old_queue, old_band), (new_queue, new_band) = old, new
    if TIERS[new_queue] is not TIERS[old_queue] or new_queue == "revenue":
        return
    at = NOW - RULES.horizon_s - excess
    waiting = Group(queue=old_queue, band=old_band, needs="fits", model=None, at=at, uid="001")
    later = Group(queue=new_queue, band=new_band, needs="fits", model=None, at=min(NOW, at + 0.0005 + late), uid="002")
    assert choose([later, waiting], ANY, now=NOW, rules=RULES) is waiting


@given(queue=st.sampled_from(GPU_QUEUES), band=BANDS, age=AGES, uids=st.permutations(["1", "2", "3"]))
def test_among_equals_the_oldest_goes_first(queue, band, age, uids):
    groups = [Group(queue=queue, band=band, needs="fits", model=None, at=NOW - age, uid=uid) for uid in uids]
    best = choose(groups, ANY, now=NOW, rules=RULES)
    assert best is not None
    assert best.uid == "1"


@given(queue=st.sampled_from(GPU_QUEUES), band=BANDS, age=st.floats(1, 3600))
def test_affinity_is_bounded(queue, band, age):
    """P7: the loaded model's job goes first until the oldest has waited `affinity_s`."""
    oldest = Group(queue=queue, band=band, needs="fits", model="a", at=NOW - age, uid="1")
    same = Group(queue=queue, band=band, needs="fits", model="b", at=NOW, uid="2")
    best = choose([oldest, same], Claimant(fits={"fits"}, loaded="b"), now=NOW, rules=RULES)
    assert best is (same if age < RULES.affinity_s else oldest)


@given(age=AGES, gated=AGES)
def test_time_behind_a_gate_is_no_waiting(age, gated):
    mine = Group(queue="internal", band=Band.LOW, needs="fits", model=None, at=NOW - age - gated, uid="2")
    other = Group(queue="ai-batch", band=Band.LOW, needs="fits", model=None, at=NOW - age, uid="1")
    best = choose([mine, other], ANY, now=NOW, rules=RULES, gated={"internal": gated})
    plain = Group(queue="internal", band=Band.LOW, needs="fits", model=None, at=NOW - age, uid="2")
    expected = choose([plain, other], ANY, now=NOW, rules=RULES)
    assert best is not None
    assert expected is not None
    if abs(score("ai-batch", Band.LOW, age, RULES) - score("internal", Band.LOW, age, RULES)) > 1e-9:
        assert best.queue == expected.queue
