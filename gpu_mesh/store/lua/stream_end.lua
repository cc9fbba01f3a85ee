-- Say that a run that streamed has ended, if it is the task's current one.
--
-- KEYS[1]  the stream (`gpumesh:stream:<task id>`)
-- ARGV[1]  the run's number        ARGV[2]  bytes it streamed        ARGV[3]  the state it ended in
-- ARGV[4]  1: the text stays; 0: it is let go, for the result has it        ARGV[5]  how long the stream is kept, ms
-- returns  1, or 0 when a later run has begun

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[2][2] ~= ARGV[1] then return 0 end
if ARGV[4] == '0' then redis.call('XTRIM', KEYS[1], 'MAXLEN', 0) end
redis.call('XADD', KEYS[1], '*', 'run', ARGV[1], 'at', ARGV[2], 'end', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
