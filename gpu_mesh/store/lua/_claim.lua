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
if not lease or tonumber(lease) <= now then return {'refused', 'lease'} end

local held = call('HKEYS', claims)
for i = 1, #held do
  local tag = held[i]
  if not find(tag, '^[=+]') and not find(ARGV[3], '\t' .. tag .. '\t', 1, true) then
    local got = call('HMGET', claims, tag, '=' .. tag, '+' .. tag)
    local forgotten = call('ZSCORE', P .. 'revoked', match(got[1], '[^\t]*$'))
    return {'lost', tag, got[2], got[1], got[3] or '', forgotten and forgotten * 1e6 > now and 1 or 0}
  end
end

local state = call('HMGET', P .. 'state', ':*', ':' .. node, ':' .. worker, '!' .. node, '!' .. worker, '+' .. worker,
  '=looked')
if state[4] or state[5] then
  stir(worker)
  return {'refused', state[4] or state[5]}
end
if state[6] then
  local holder, tag = match(state[6], '^(.*)\t(.*)$')
  if call('HEXISTS', P .. 'claims:' .. holder, tag) == 1 then return {'refused', 'serves a job of ' .. holder} end
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

-- The oldest message of a class that fits and, where `wanted` is given, has its needs there: within a class the oldest
-- has the best score.
local function oldest(class, queue, rank, wanted)
  -- The first one fits, as a rule.
  local from, page = 0, 2
  while true do
    local groups = call('ZRANGE', P .. 'class:' .. class, from, from + page - 1)
    for i = 1, #groups do
      local group = groups[i]
      local needs = match(group, '^%d+')
      local key = ',' .. needs .. ','
      if find(ARGV[4], key, 1, true) then
        local two = (not wanted or find(wanted, key, 1, true)) and call('ZRANGE', P .. 'group:' .. group, 0, 1)
        if two then
          local list = match(group, '^%d+|%l+|(.*)$')
          local id, at, gated, deliveries, tag, task = match(two[1] or '', '^(%S+) (%d+) (%-?%d+) (%d+) (%S+) (.*)$')
          if not id then
            wrong = list
            return nil
          end
          local m = {class = class, queue = queue, group = group, list = list, needs = needs, key = key, member = two[1], next = two[2],
            first = from + i == 1, only = from + #groups == 1, id = id, at = at, sent = tonumber(at), gated = gated,
            deliveries = deliveries, tag = tag, task = task, siblings = '', waited = false, score = false,
            gather = false, waits = false, saves_swap = false}
          if not team then return m end
          local whole
          m.siblings, whole = team(needs)
          m.waits = not whole and gathers(m, rank)
          if whole or m.waits then return m end
        end
      elseif needs == '0' then
        wrong = match(group, '^%d+|%l+|(.*)$')
        return nil
      elseif not (misfits == ARGV[5] and find(misfits, key, 1, true) or misfits ~= ARGV[5] and misfits[needs]) then
        unknown[#unknown + 1] = needs
        unknown[#unknown + 1] = call('HGET', P .. 'needs', needs)
      end
      if #unknown > 2 * JUDGED_AT_ONCE then return nil end
    end
    if #groups < page then return nil end
    from, page = from + page, 32
  end
end

local classes = call('HGETALL', P .. 'classes')
local best, n, names, bounds = nil, 0, {}, {}
for i = 1, #classes, 2 do
  local queue, band = match(classes[i], '^(.*)|(.*)$')
  local name = ',' .. queue .. ','
  if find(ARGV[15], name, 1, true) and BONUS[band] and (closed == '' or not find(closed, name, 1, true)) then
    n = n + 1
    names[n] = classes[i]
    local kind = WEIGHT[queue] and queue or ''
    local waited, top = now - classes[i + 1], TOP[kind]
    -- What its oldest message would score at most, should it fit.
    local value = WEIGHT[kind] + BONUS[band] + (waited < horizon and (waited > 0 and waited / horizon or 0) or 1) * AGING[kind]
    bounds[n] = value < top and value or top
  end
end
while true do
  local k, bound = nil, best and best.score or -1
  for i = 1, n do
    -- Of equal scores the oldest wins: a class that may only draw is looked at too.
    if bounds[i] and bounds[i] >= bound then k, bound = i, bounds[i] end
  end
  if not k then break end
  bounds[k] = false
  local queue, band = match(names[k], '^(.*)|(.*)$')
  local kind = WEIGHT[queue] and queue or ''
  local start, top = WEIGHT[kind] + BONUS[band], TOP[kind]
  local m = not (queue == HELD and held_in()[1]) and oldest(names[k], queue, start)
  if wrong then return {'look', wrong} end
  if m then
    local waited = now - m.sent
    for i = 1, #totals, 2 do
      if totals[i] == queue then waited = waited - (totals[i + 1] - m.gated) end
    end
    m.waited = waited > 0 and waited or 0
    local value = start + (m.waited < horizon and m.waited / horizon or 1) * AGING[kind]
    m.score = value < top and value or top
    if not best or m.score > best.score or (m.score == best.score and m.sent < best.sent) then best = m end
  end
end
if #unknown > 1 then return unknown end

-- Jobs of the loaded model first, within the class and up to a bound (SPEC P7).
if best and ARGV[6] ~= '' and not best.waits and best.waited < tonumber(ARGV[9]) and
  not find(ARGV[6], best.key, 1, true) and not find(ARGV[7], best.key, 1, true) then
  local same_model = oldest(best.class, best.queue, 0, ARGV[6])
  if wrong then return {'look', wrong} end
  if same_model and not same_model.waits then
    best = same_model
    best.saves_swap = true
  end
end

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
