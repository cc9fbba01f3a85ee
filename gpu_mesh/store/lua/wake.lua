-- Wake the devices that are idle longest: there is work that no publish told of (given back, delayed until now).
--
-- ARGV[1]  how many at most
-- returns  how many
--
-- gpumesh:idle           zset  worker → idle since
-- gpumesh:wake:<worker>  list  what an idle worker waits on

local P = 'gpumesh:'
redis.call('DEL', P .. 'nothing')
local idle = redis.call('ZRANGE', P .. 'idle', 0, tonumber(ARGV[1]) - 1)
for _, worker in ipairs(idle) do
  redis.call('ZREM', P .. 'idle', worker)
  redis.call('LPUSH', P .. 'wake:' .. worker, 1)
  redis.call('EXPIRE', P .. 'wake:' .. worker, 60)
end
return #idle
