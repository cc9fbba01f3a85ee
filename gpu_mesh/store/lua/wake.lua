-- Wake the workers that are idle longest: there is work that no publish told of (given back, delayed until now).
--
-- ARGV[1…]  the queue of each message; a worker a message
-- returns   how many were woken

local call, P = redis.call, 'gpumesh:'
--@include _idle

-- The first write needs no memory: this works on a Redis that is full.
call('DEL', P .. 'nothing')
local woken = 0
for i = 1, #ARGV do
  local longest = call('ZRANGE', P .. 'idle:' .. ARGV[i], 0, 0)[1]
  if longest then
    wake(longest)
    woken = woken + 1
  end
end
return woken
