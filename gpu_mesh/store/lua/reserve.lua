-- Reserve task ids for a request that may come twice.
--
-- ARGV[1]  reservation        ARGV[2]  digest of the request
-- ARGV[3]  task ids, a JSON list                    ARGV[4]  how long it is remembered, s
-- returns  digest, task ids and whether all are sent (1, or "") of the first such request, which may be this one; and
--          whether it is (1 or 0)
--
-- <reservation>  hash  digest, ids; done once all are sent; and =<task id> for each that is, see once.lua

local got = redis.call('HMGET', ARGV[1], 'digest', 'ids', 'done')
if got[1] then return {got[1], got[2], got[3] or '', 0} end
redis.call('HSET', ARGV[1], 'digest', ARGV[2], 'ids', ARGV[3])
redis.call('EXPIRE', ARGV[1], ARGV[4])
return {ARGV[2], ARGV[3], '', 1}
