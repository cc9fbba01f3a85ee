-- Put the delayed messages that are due into their lists. They wait from now on, in the order they were due.
--
-- ARGV[1]  messages at most
-- returns  how many, and milliseconds until the next one is due (-1: there is none)
--
-- gpumesh:delayed, gpumesh:later  see delay.lua        gpumesh:looked  see claim.lua

local P = 'gpumesh:'
redis.call('DEL', P .. 'nothing')
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local due = redis.call('ZRANGEBYSCORE', P .. 'delayed', '-inf', string.format('%.6f', now), 'LIMIT', 0, ARGV[1])
for _, tag in ipairs(due) do
  local held = redis.call('HGET', P .. 'later', tag)
  if held then
    local stop = string.find(held, '\n', 1, true)
    redis.call('LPUSH', string.sub(held, 1, stop - 1), string.sub(held, stop + 1))
    redis.call('HDEL', P .. 'later', tag)
  end
  redis.call('ZREM', P .. 'delayed', tag)
end
if #due > 0 then redis.call('DEL', P .. 'looked') end
local next = redis.call('ZRANGE', P .. 'delayed', 0, 0, 'WITHSCORES')
if not next[1] then return {#due, -1} end
return {#due, math.max(0, math.ceil((tonumber(next[2]) - now) * 1000))}
