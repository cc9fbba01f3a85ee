-- Put a message into its list, index it, and wake the best-placed idle device.
--
-- ARGV[1]  list                   ARGV[2]  envelope
-- ARGV[3]  band                   ARGV[4]  needs as JSON
-- ARGV[5]  delivery tag           ARGV[6]  task id
-- ARGV[7]  mode of placement: critical, normal or low
-- returns  the worker woken (of several the one idle longest), or ""
--
-- gpumesh:fit:<needs>:<mode>  zset  worker → its node score for such a task
-- gpumesh:wake:<worker>       list  what an idle worker waits on
--
-- Refused as a whole by a Redis that is full: the first write needs memory.
--@include _index

local IDLE = P .. 'idle'
-- Ranked workers looked at in one go.
local PAGE = 100
-- Workers woken where none of the idle is known to fit.
local UNJUDGED = 4

local list = ARGV[1]
local len = call('LPUSH', list, ARGV[2])
local got = call('HMGET', P .. 'list:' .. list, 'base', 'n')
local base, n = tonumber(got[1] or 0), tonumber(got[2] or 0)
local needs = needs_number(ARGV[4])
-- Behind a stranger's it waits to be indexed with it.
if len == n + 1 then
  enter({list = list, q = base + n, at = clock(), gated = call('HGET', P .. 'gated', queue_of(list)) or 0, deliveries = 0,
    needs = needs, tag = ARGV[5], band = ARGV[3], id = ARGV[6]}, base, n + 1)
end

local function wake(worker)
  call('ZREM', IDLE, worker)
  call('LPUSH', P .. 'wake:' .. worker, 1)
  call('EXPIRE', P .. 'wake:' .. worker, 60)
  return worker
end

if call('ZCARD', IDLE) == 0 then return '' end
local ranked = P .. 'fit:' .. needs .. ':' .. ARGV[7]
local from = 0
while true do
  local page = call('ZREVRANGE', ranked, from, from + PAGE - 1)
  if #page == 0 then break end
  local idle = call('ZMSCORE', IDLE, unpack(page))
  for i = 1, #page do
    if idle[i] then return wake(page[i]) end
  end
  from = from + PAGE
end
-- None of the idle has judged these needs to fit it: those idle longest look. One that finds nothing is idle anew, so
-- the next publish wakes others.
local longest = call('ZRANGE', IDLE, 0, UNJUDGED - 1)
for i = 1, #longest do wake(longest[i]) end
return longest[1]
