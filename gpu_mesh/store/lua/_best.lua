-- Choosing the message `best`, nil for none: included by _claim.lua, with the names that it sets.

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
          local whole, able
          m.siblings, whole, able = team(needs)
          m.waits = not whole and able and gathers(m, rank)
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
