-- Be the only one for a time, or no longer; also on a Redis that is full, which refuses every transaction.
--
-- KEYS[1]  whose it is        ARGV[1]  who        ARGV[2]  for how long, ms; "" where the time is over
-- returns  1, or 0 when somebody else is

-- The first write needs no memory.
redis.call('DEL', 'gpumesh:nothing')
if ARGV[2] ~= '' then return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) and 1 or 0 end
-- Past its time it may be another's.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
