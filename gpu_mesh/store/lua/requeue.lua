-- Give a claim back to the front of its list; age kept. One that was delivered too often goes to the dead letters.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  1: this delivery does not count (preempted, handed back)
-- ARGV[4]  deliveries after which a message is dead
-- ARGV[5]  1: it was preempted, which is counted        ARGV[6]  how long that is remembered of the job, s
-- returns  {0} when the claim was not this worker's any more, else {1, list, "requeued", "woken" or "dead"}
--
-- gpumesh:preempted:<delivery tag>  string  how often the job was preempted
-- gpumesh:preemptions               hash    <queue>|<worker> → how many jobs were
--@include _index
--@include _idle
--@realtime
--@include _let_go
--@include _give_back
--@include _tell

local m, raw = read_claim(ARGV[1], ARGV[2])
if not m then return {0} end
let_go(ARGV[1], ARGV[2])
m.deliveries = m.deliveries - ARGV[3]
if ARGV[5] == '1' then
  call('INCR', P .. 'preempted:' .. m.tag)
  call('EXPIRE', P .. 'preempted:' .. m.tag, ARGV[6])
  call('HINCRBY', P .. 'preemptions', queue_of(m.list) .. '|' .. ARGV[1], 1)
end
local became = give_back(ARGV[1], m, raw, tonumber(ARGV[4]))
local why = ARGV[5] == '1' and 'preempted' or ARGV[3] == '1' and 'handed_back' or 'lost'
tell(ARGV[1], m, raw, became == 'dead' and 'dead' or why)
return {1, m.list, became}
