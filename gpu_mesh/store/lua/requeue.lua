-- Give a claim back to the front of its list; age kept. One that was delivered too often goes to the dead letters.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  1: this delivery does not count (preempted, handed back)
-- ARGV[4]  deliveries after which a message is dead
-- returns  1, or 0 when the claim was not this worker's any more
--@include _index
--@include _give_back

local claims = P .. 'claims:' .. ARGV[1]
local held = call('HGET', claims, ARGV[2])
if not held then return 0 end
call('HDEL', claims, ARGV[2])
local m, raw = read_claim(held)
m.tag, m.deliveries = ARGV[2], m.deliveries - ARGV[3]
if m.deliveries >= tonumber(ARGV[4]) then
  call('HDEL', AGAIN, m.tag)
  bury(m.list, raw, {why = 'deliveries', worker = ARGV[1], at = tonumber(clock()), deliveries = m.deliveries, id = m.id})
else
  give_back(raw, m)
end
return 1
