-- Give a message whose time has not come another list.
--
-- ARGV[1]  delivery tag
-- ARGV[2]  list and envelope as they are, a newline between        ARGV[3]  as they are to be
-- returns  1, or 0 when its time came meanwhile
--
-- gpumesh:later  see delay.lua

if redis.call('HGET', 'gpumesh:later', ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', 'gpumesh:later', ARGV[1], ARGV[3])
return 1
