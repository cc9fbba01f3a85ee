-- Let a claim go: its job is done.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag
-- ARGV[3]  how it ended, for the journal; "" for nothing        ARGV[4]  entries that the journal keeps, about
-- ARGV[5]  how it ended, for the statistics; "" or none for what is not counted
-- ARGV[6]  its model, "" for none        ARGV[7]  how long it ran, µs; "": since it was claimed
-- returns  1, or 0 when the claim was not this worker's any more
--
-- gpumesh:finished  list  how the last tasks ended, newest first

local call, P = redis.call, 'gpumesh:'
-- Entries that the journal may have too many.
local SLACK = 100

local worker, tag = ARGV[1], ARGV[2]
local claims = P .. 'claims:' .. worker
local got = call('HMGET', claims, tag, '+' .. tag)
if call('HDEL', claims, tag, '=' .. tag, '+' .. tag) == 0 then return 0 end
if ARGV[3] ~= '' and call('LPUSH', P .. 'finished', ARGV[3]) > ARGV[4] + SLACK then
  call('LTRIM', P .. 'finished', 0, ARGV[4] - 1)
end
--@realtime
if got[2] then
--@include _idle
--@include _let_go
  free(got[2])
end
local queue = got[1] and string.match(got[1], '^([^:\t]*)')
if queue and string.find(YIELDING, ',' .. queue .. ',', 1, true) then
--@include _unlist
elseif queue and string.find(REALTIME, ',' .. queue .. ',', 1, true) then
  local siblings = got[2]
--@include _resume
end
if (ARGV[5] or '') ~= '' and got[1] then
  local record, siblings, outcome, model, ran = got[1], got[2], ARGV[5], ARGV[6], ARGV[7]
--@include _ended
end
return 1
