-- Renew a worker's lease.
--
-- ARGV[1]  worker        ARGV[2]  how long it holds, s        ARGV[3]  1: also when it had ended (a worker that starts)
-- returns  1, or 0 when the lease had ended: what the worker held may run elsewhere
--
-- gpumesh:renewed  string  when any worker renewed last; a gap longer than a lease means that Redis was away, and
-- gpumesh:grace    string  until when nobody is reaped for that

local P = 'gpumesh:'
redis.call('DEL', P .. 'nothing')
local t = redis.call('TIME')
local now, ttl = tonumber(t[1]) + tonumber(t[2]) / 1e6, tonumber(ARGV[2])
local renewed = tonumber(redis.call('GET', P .. 'renewed') or now)
if now - renewed > ttl then redis.call('SET', P .. 'grace', string.format('%.6f', now + ttl)) end
redis.call('SET', P .. 'renewed', string.format('%.6f', now))
local held = redis.call('ZSCORE', P .. 'leases', ARGV[1])
-- Within the grace an ended lease is only one that could not be renewed.
local grace = tonumber(redis.call('GET', P .. 'grace') or 0)
if ARGV[3] ~= '1' and (not held or (tonumber(held) <= now and now > grace)) then return 0 end
redis.call('ZADD', P .. 'leases', string.format('%.6f', now + ttl), ARGV[1])
return 1
