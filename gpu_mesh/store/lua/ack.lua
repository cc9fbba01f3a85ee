-- Let a claim go: its job is done.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag
-- ARGV[3]  how it ended, for the journal; "" for nothing        ARGV[4]  entries that the journal keeps, about
-- returns  1, or 0 when the claim was not this worker's any more
--
-- gpumesh:finished  list  how the last tasks ended, newest first

local call, P = redis.call, 'gpumesh:'
-- Entries that the journal may have too many.
local SLACK = 100

local claims, tag = P .. 'claims:' .. ARGV[1], ARGV[2]
local got = call('HMGET', claims, tag, '+' .. tag)
local queue, siblings = string.match(got[1] or '', '^([^:\t]*)'), got[2]
if call('HDEL', claims, tag, '=' .. tag, '+' .. tag) == 0 then return 0 end
if ARGV[3] ~= '' and call('LPUSH', P .. 'finished', ARGV[3]) > ARGV[4] + SLACK then
  call('LTRIM', P .. 'finished', 0, ARGV[4] - 1)
end
--@realtime
if siblings or REALTIME[queue] then
--@include _idle
--@include _let_go
  if siblings then free(siblings) end
  if REALTIME[queue] then resume(ARGV[1], tag, siblings or '') end
end
return 1
