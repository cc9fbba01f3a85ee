-- Begin to lead: from when entries count of which nothing is known, and which are gone.
--
-- ARGV[1]  beat        ARGV[2]  how many entries follow, each with when it counts as last due, s
-- then     names of entries to forget
-- returns  1; 0 when another beat leads by now: nothing was changed
--
-- gpumesh:beat       string  the beat that leads; expires
-- gpumesh:beat:runs  hash    entry → when it was last due, s

if redis.call('GET', 'gpumesh:beat') ~= ARGV[1] then return 0 end
local last = 2 + 2 * tonumber(ARGV[2])
for i = 3, last, 2 do redis.call('HSET', 'gpumesh:beat:runs', ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', 'gpumesh:beat:runs', ARGV[i]) end
return 1
