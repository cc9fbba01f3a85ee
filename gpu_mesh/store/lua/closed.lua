-- What is closed to a worker now, for whatever reason.
--
-- ARGV[1]  worker        ARGV[2]  its node
-- returns  how long what it runs may take to yield, s, and why, after a space ("": it runs on); the names of the queues that
--          are closed to it, some more than once
--
-- gpumesh:state  see claim.lua

local call, match, P = redis.call, string.match, 'gpumesh:'
local worker, node = ARGV[1], ARGV[2]
--@realtime
--@include _holds
-- As in _claim.lua: a cordon of its node leaves the control worker at work.
local part = match(worker, '^control@') and worker or node
local state = call('HMGET', P .. 'state', ':*', ':' .. node, ':' .. worker, '>' .. part, '>' .. worker)
local found = {state[5] or state[4] or ''}
for _, queues in ipairs({state[1] or '', state[2] or '', state[3] or '', #holds > 0 and HELD or ''}) do
  for queue in string.gmatch(queues, '[^,]+') do found[#found + 1] = queue end
end
return found
