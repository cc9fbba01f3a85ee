-- Put the delayed messages that are due into their lists. They wait from now on, in the order they were due.
--
-- ARGV[1]  messages at most
-- returns  their lists
--
-- gpumesh:delayed, gpumesh:later  see delay.lua        gpumesh:state  see claim.lua

local call, P = redis.call, 'gpumesh:'
-- The first write needs no memory: this works on a Redis that is full.
call('DEL', P .. 'nothing')
local t = call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local due = call('ZRANGEBYSCORE', P .. 'delayed', '-inf', string.format('%.6f', now), 'LIMIT', 0, ARGV[1])
local told = {}
for _, tag in ipairs(due) do
  local held = call('HGET', P .. 'later', tag)
  if held then
    local stop = string.find(held, '\n', 1, true)
    local list, raw = string.sub(held, 1, stop - 1), string.sub(held, stop + 1)
    if type(redis.pcall('LPUSH', list, raw)) == 'number' then
      told[#told + 1] = list
    else
      -- No list: a stranger's key of the same name. The others are not to wait for it.
      call('LPUSH', P .. 'dead', cjson.encode({list = list, why = 'its queue is no list in Redis', at = now}) .. '\n' .. raw)
    end
    call('HDEL', P .. 'later', tag)
  end
  call('ZREM', P .. 'delayed', tag)
end
if #due > 0 then call('HDEL', P .. 'state', '=looked') end
return told
