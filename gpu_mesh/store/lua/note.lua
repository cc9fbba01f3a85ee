-- Set fields of a hash, also on a Redis that is full: for what is bounded.
--
-- KEYS[1]  hash        ARGV  field, value, …

-- The first write needs no memory.
redis.call('DEL', 'gpumesh:nothing')
for i = 1, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
