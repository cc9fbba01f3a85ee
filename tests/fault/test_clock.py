"""The clock of Redis's machine jumps under running workers (DESIGN §9): only jobs of the dead move."""

from __future__ import annotations

import pytest
from bare_workers import Mesh

from gpu_mesh.store import keys

#: For a lease that begins anew, and a busy test machine, s.
LIMIT_S = 10.0
HOUR_S = 3600
#: What the workers wrote is moved the other way, in one step: to them that is a jump of the clock.
JUMP = """
local by = tonumber(ARGV[1])
local leases = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do redis.call('ZINCRBY', KEYS[1], string.format('%.0f', -by * 1e6), leases[i]) end
redis.call('INCRBY', KEYS[2], string.format('%.0f', -by * 1e6))
local left = redis.call('PTTL', KEYS[3])
if left > 0 then redis.call('PEXPIRE', KEYS[3], math.max(1, left - by * 1000)) end
return #leases / 2
"""


def _jump(fleet: Mesh, by_s: int) -> None:
    with fleet.server.client() as client:
        names = (keys.LEASES, f"{keys.PREFIX}renewed", f"{keys.PREFIX}tender")
        assert client.eval(JUMP, len(names), *names, by_s) == 2


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_a_jump_of_the_clock(living: Mesh, by_s: int):
    """DESIGN §9: nobody alive is reaped; who dies then is reaped when its lease would have ended, tender or not."""
    fleet, (one, two) = living, living.all_workers
    gate = fleet.folder / "gate"
    task = fleet.hold(gate, queue="customer")
    first = fleet.started(task)
    victim, other = (one, two) if first == one.name else (two, one)
    _jump(fleet, by_s)
    # The other one claims within a lease, and the job is where it was.
    assert fleet.started(fleet.send(queue="customer"), timeout_s=LIMIT_S) == other.name
    assert len(fleet.ledger.starts(task)) == 1

    _jump(fleet, by_s)
    victim.kill()
    assert fleet.started(task, 2, LIMIT_S) == other.name
    gate.unlink()
    fleet.ended(task)
    fleet.settled()
    assert fleet.ledger.ends()[task] == 1
    assert "lease lost" not in other.log.read_text() + victim.log.read_text()
