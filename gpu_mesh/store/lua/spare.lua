-- A job is not one that may be preempted, whatever its message says.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag        ARGV[3]  its queue

local call, P = redis.call, 'gpumesh:'
local worker, tag, queue = ARGV[1], ARGV[2], ARGV[3]
--@include _unlist
