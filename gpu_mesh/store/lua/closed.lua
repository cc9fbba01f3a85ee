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
local leave = state[5] or state[4]
-- A job of several devices is to leave when one of them is: the shortest time holds.
for _, field in ipairs(call('HKEYS', P .. 'claims:' .. worker)) do
  local siblings = match(field, '^%+') and call('HGET', P .. 'claims:' .. worker, field) or ''
  for sibling in string.gmatch(siblings, '[^,]+') do
    local its = call('HGET', P .. 'state', '>' .. sibling)
    if its and (not leave or tonumber(match(its, '^%S+')) < tonumber(match(leave, '^%S+'))) then leave = its end
  end
end
local found = {leave or ''}
for _, queues in ipairs({state[1] or '', state[2] or '', state[3] or '', #holds > 0 and HELD or ''}) do
  for queue in string.gmatch(queues, '[^,]+') do found[#found + 1] = queue end
end
return found
