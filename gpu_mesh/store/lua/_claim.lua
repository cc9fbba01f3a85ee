-- The claim itself: included by claim.lua, which has its contract, and look.lua. Names known: call, find, match, format,
-- P, and LOOKS: whether the functions of _index and _adopt are.

--@rules
--@realtime
--@include _idle

-- How long strangers' messages may go unseen while there is other work, µs.
local LOOK_EVERY = 100000
-- Needs to be judged that one reply holds at most.
local JUDGED_AT_ONCE = 100
-- How far the time kept of a class may lag behind its oldest message, µs: it only says where to look first.
local CLASS_LAG = 1e6

local worker, node = ARGV[1], ARGV[2]
local t = call('TIME')
local now = t[1] * 1e6 + t[2]
local claims = P .. 'claims:' .. worker

local lease = call('ZSCORE', P .. 'leases', worker)
-- A Redis that is full counts none.
if not lease or tonumber(lease) <= now then
  redis.pcall('HINCRBY', P .. 'stats', 'refused|lease', 1)
  return {'refused', 'lease'}
end

local held = call('HKEYS', claims)
for i = 1, #held do
  local tag = held[i]
  if not find(tag, '^[=+]') and not find(ARGV[3], '\t' .. tag .. '\t', 1, true) then
    local got = call('HMGET', claims, tag, '=' .. tag, '+' .. tag)
    local forgotten = call('ZSCORE', P .. 'revoked', match(got[1], '[^\t]*$'))
    return {'lost', tag, got[2], got[1], got[3] or '', forgotten and forgotten * 1e6 > now and 1 or 0}
  end
end

-- Who looks after the mesh does so from a node that is drained, too.
local part = find(worker, '^control@') and worker or node
local state = call('HMGET', P .. 'state', ':*', ':' .. node, ':' .. worker, '!' .. part, '!' .. worker, '+' .. worker,
  '=looked')
if state[4] or state[5] then
  stir(worker)
  redis.pcall('HINCRBY', P .. 'stats', 'refused|cordon', 1)
  return {'refused', state[4] or state[5]}
end
if state[6] then
  local holder, tag = match(state[6], '^(.*)\t(.*)$')
  if call('HEXISTS', P .. 'claims:' .. holder, tag) == 1 then
    redis.pcall('HINCRBY', P .. 'stats', 'refused|sibling', 1)
    return {'refused', 'serves a job of ' .. holder}
  end
  call('HDEL', P .. 'state', '+' .. worker)
end

local closed = (state[1] or '') .. (state[2] or '') .. (state[3] or '')
local totals = call('HGETALL', P .. 'gated')
local horizon = tonumber(ARGV[8])

-- Either way: the clock may step back.
local looked = state[7] and math.abs(now - state[7]) <= LOOK_EVERY
if LOOKS and (ARGV[13] ~= '' or not looked) then
  if look() > 0 then return {'look', '1'} end
  looked = true
elseif not looked then
  return {'look', '1'}
end

local unknown, wrong = {'needs'}, nil
local misfits = ARGV[5]
if #misfits > 2048 then
  misfits = {}
  for number in string.gmatch(ARGV[5], '%d+') do misfits[number] = true end
end

--@include _team

-- The scopes in which realtime jobs hold ai-batch back; asked for only when it comes to that.
local known
local function held_in()
  if not known then
--@include _holds
    known = holds
  end
  return known
end

--@include _best
if not best or best.waits then
  if not LOOKS then return {'look', '1'} end
  -- The first write needs no memory.
  call('DEL', P .. 'nothing')
  if best and best.gather then call('HSET', P .. 'gather', node, best.gather) end
  local open, held_back = {}, false
  for queue in string.gmatch(ARGV[15], '[^,]+') do
    if not find(closed, ',' .. queue .. ',', 1, true) then
      held_back = held_back or queue == HELD and held_in()[1]
      if queue ~= HELD or not held_back then open[#open + 1] = queue end
    end
  end
  if held_back then
    -- Idle for it once no realtime job holds it back there any more (_resume.lua).
    for _, scope in ipairs(held_in()) do open[#open + 1] = HELD .. '@' .. scope end
  end
  local queues = table.concat(open, ',')
  local was = ARGV[12] == '1' and call('HGET', P .. 'idling', worker)
  if was ~= queues then
    stir(worker)
    for i = 1, #open do call('ZADD', P .. 'idle:' .. open[i], format('%.0f', now), worker) end
    if queues ~= '' then call('HSET', P .. 'idling', worker, queues) end
    -- It may have been woken for work that is held back here: another one looks in its place.
    for i = 1, held_back and #classes or 0, 2 do
      if find(classes[i], HELD .. '|', 1, true) == 1 then
        local other = call('ZRANGE', P .. 'idle:' .. HELD, 0, 0)[1]
        if other then wake(other) end
        break
      end
    end
  end
  local due = call('ZRANGE', P .. 'delayed', 0, 0, 'WITHSCORES')[2]
  return {'none', due and math.max(0, math.ceil((due * 1e6 - now) / 1000)) or -1}
end

--@include _take
