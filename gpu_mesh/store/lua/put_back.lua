-- Put a message back that a stock Celery worker took: at the old end of its list, as stock Celery does.
--
-- ARGV[1]  delivery tag        ARGV[2]  when it was taken, s by that worker's clock; "" when that is not known
-- ARGV[3]  list                ARGV[4]  envelope
-- returns  1, or 0 when it was acked, put back or taken anew meanwhile
--
-- unacked        hash  delivery tag → JSON of envelope, exchange and routing key    (kombu's)
-- unacked_index  zset  delivery tag → when it was taken                             (kombu's)
-- gpumesh:state  hash  see claim.lua

local taken = redis.call('ZSCORE', 'unacked_index', ARGV[1])
if (taken and tonumber(taken)) ~= tonumber(ARGV[2]) and (taken or ARGV[2] ~= '') then return 0 end
if redis.call('HDEL', 'unacked', ARGV[1]) == 0 then return 0 end
redis.call('ZREM', 'unacked_index', ARGV[1])
redis.call('RPUSH', ARGV[3], ARGV[4])
redis.call('HDEL', 'gpumesh:state', '=looked')
return 1
