-- Keep a message until its time has come.
--
-- ARGV[1]  list                ARGV[2]  envelope
-- ARGV[3]  delivery tag        ARGV[4]  when it is due, s since the epoch
-- ARGV[5]  worker that claimed it, or "" for one that comes from its sender
-- returns  1; 0 when it is due already: nothing was changed
--
-- gpumesh:delayed  zset  delivery tag → when it is due
-- gpumesh:later    hash  delivery tag → list; newline; envelope
--
-- Refused as a whole by a Redis that is full: the first write needs memory.

local call, P = redis.call, 'gpumesh:'
--@include _idle
--@realtime
--@include _let_go

local t = call('TIME')
if tonumber(ARGV[4]) <= tonumber(t[1]) + tonumber(t[2]) / 1e6 then return 0 end
call('HSET', P .. 'later', ARGV[3], ARGV[1] .. '\n' .. ARGV[2])
call('ZADD', P .. 'delayed', ARGV[4], ARGV[3])
if ARGV[5] ~= '' then let_go(ARGV[5], ARGV[3]) end
return 1
