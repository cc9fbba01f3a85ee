-- Let a claim go: its job is done.
--
-- ARGV[1]  worker        ARGV[2]  delivery tag
-- returns  1, or 0 when the claim was not this worker's any more

redis.call('HDEL', 'gpumesh:again', ARGV[2])
return redis.call('HDEL', 'gpumesh:claims:' .. ARGV[1], ARGV[2])
