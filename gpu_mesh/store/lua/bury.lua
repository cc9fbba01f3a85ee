-- Move a claim to the dead letters.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  why
-- returns  1, or 0 when the claim was not this worker's any more
--@include _index
--@include _idle
--@realtime
--@include _let_go
--@include _tell

local m, raw = read_claim(ARGV[1], ARGV[2])
if not m then return 0 end
let_go(ARGV[1], ARGV[2])
call('HDEL', AGAIN, ARGV[2])
bury(m.list, raw, {why = ARGV[3], worker = ARGV[1], at = clock() / 1e6, deliveries = m.deliveries, id = m.task})
tell(ARGV[1], m, raw, 'dead')
return 1
