-- Let a claim go: its job is done.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag
-- ARGV[3]  how it ended, for the journal; "" for nothing        ARGV[4]  entries that the journal keeps
-- returns  1, or 0 when the claim was not this worker's any more
--
-- gpumesh:finished  list  how the last tasks ended, newest first

local call, P = redis.call, 'gpumesh:'
--@include _idle
--@include _let_go

if let_go(ARGV[1], ARGV[2]) == 0 then return 0 end
call('HDEL', P .. 'again', ARGV[2])
if ARGV[3] ~= '' then
  call('LPUSH', P .. 'finished', ARGV[3])
  call('LTRIM', P .. 'finished', 0, ARGV[4] - 1)
end
return 1
