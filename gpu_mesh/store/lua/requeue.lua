-- Give a claim back to the front of its list; age kept. One that was delivered too often goes to the dead letters.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  1: this delivery does not count (preempted, handed back)
-- ARGV[4]  deliveries after which a message is dead
-- returns  {0} when the claim was not this worker's any more, else {1, list, "requeued", "woken" or "dead"}
--@include _index
--@include _idle
--@realtime
--@include _let_go
--@include _give_back

local m, raw = read_claim(ARGV[1], ARGV[2])
if not m then return {0} end
let_go(ARGV[1], ARGV[2])
m.deliveries = m.deliveries - ARGV[3]
return {1, m.list, give_back(ARGV[1], m, raw, tonumber(ARGV[4]))}
