-- Move a claim to the dead letters.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  why
-- returns  1, or 0 when the claim was not this worker's any more
--@include _index

local claims = P .. 'claims:' .. ARGV[1]
local held = call('HGET', claims, ARGV[2])
if not held then return 0 end
call('HDEL', claims, ARGV[2])
call('HDEL', AGAIN, ARGV[2])
local m, raw = read_claim(held)
bury(m.list, raw, {why = ARGV[3], worker = ARGV[1], at = tonumber(clock()), deliveries = m.deliveries, id = m.id})
return 1
