-- Take a message out whose time has not come, and keep it until it is marked as revoked.
--
-- ARGV[1]  delivery tag
-- returns  1, or 0 when its time came meanwhile
--
-- gpumesh:delayed, gpumesh:later  see delay.lua
-- gpumesh:purged                  list  envelopes that are in no queue any more and not marked as revoked yet

local P = 'gpumesh:'
local held = redis.call('HGET', P .. 'later', ARGV[1])
if not held then return 0 end
-- The first writes need no memory: this works on a Redis that is full.
redis.call('HDEL', P .. 'later', ARGV[1])
redis.call('ZREM', P .. 'delayed', ARGV[1])
redis.call('LPUSH', P .. 'purged', string.sub(held, string.find(held, '\n', 1, true) + 1))
return 1
