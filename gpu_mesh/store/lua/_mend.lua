-- Taking out of the index, and mending what strangers made wrong: included after _index and _describe.

-- Every group of a list, each with its class.
local function groups_of(list)
  local found, stop, queue = {}, '|' .. list, queue_of(list)
  for _, band in ipairs({'critical', 'high', 'normal', 'low'}) do
    local class = queue .. '|' .. band
    for _, group in ipairs(call('ZRANGE', P .. 'class:' .. class, 0, -1)) do
      if string.sub(group, -#stop) == stop then found[#found + 1] = {group = group, class = class} end
    end
  end
  return found
end

-- Have a class say what is true after a message of the group, or the whole group, went out of it.
local function settle(group, class)
  local head = call('ZRANGE', P .. 'group:' .. group, 0, 0, 'WITHSCORES')
  if head[1] then
    call('ZADD', P .. 'class:' .. class, head[2], group)
  else
    call('ZREM', P .. 'class:' .. class, group)
  end
  local first = call('ZRANGE', P .. 'class:' .. class, 0, 0, 'WITHSCORES')
  if first[1] then call('HSET', CLASSES, class, first[2]) else call('HDEL', CLASSES, class) end
end

-- Make nothing of what is known of a list; it is indexed anew.
local function forget(list)
  call('UNLINK', P .. 'list:' .. list)
  for _, g in ipairs(groups_of(list)) do
    call('UNLINK', P .. 'group:' .. g.group)
    settle(g.group, g.class)
  end
end

-- The position of a message by its id; before every other when it is nowhere any more.
local function place_of(list, id)
  return tonumber(call('HGET', P .. 'list:' .. list, 'm' .. id) or id) or -math.huge
end

-- A place of a list is nobody's any more.
local function vacate(list, place)
  local hash = P .. 'list:' .. list
  local id = call('HGET', hash, 'o' .. place)
  if id then call('HDEL', hash, 'o' .. place, 'm' .. id) end
end

-- Take out of a list what lies at a place, as _claim.lua does; its group is the caller's to write. Returns the envelope.
local function cut(list, place)
  local hash = P .. 'list:' .. list
  local base = tonumber(call('HGET', hash, 'base') or 0)
  local raw = call('LINDEX', list, base - place - 1)
  vacate(list, place)
  local last = call('RPOP', list)
  if place > base then
    call('LSET', list, base - place, last)
    local moved = call('HGET', hash, 'o' .. base) or base
    call('HDEL', hash, 'o' .. base)
    call('HSET', hash, 'm' .. moved, place, 'o' .. place, moved)
  end
  call('HSET', hash, 'base', base + 1)
  return raw
end

-- Messages of a group that are looked at when it is searched.
local SEARCHED = 100

-- The place of the message with that delivery tag, if it is among the oldest of its group.
local function find_place(list, tag)
  for _, g in ipairs(groups_of(list)) do
    for _, member in ipairs(call('ZRANGE', P .. 'group:' .. g.group, 0, SEARCHED - 1)) do
      local id, its = match(member, '^(%S+) %d+ %-?%d+ %d+ (%S+)')
      if its == tag then return place_of(list, id) end
    end
  end
end

-- Drop from the heads of a list's groups what lay before its base, that is, what strangers took. Returns how many.
local function drop_taken(list, base)
  local dropped = 0
  for _, g in ipairs(groups_of(list)) do
    local before = dropped
    while true do
      local member = call('ZRANGE', P .. 'group:' .. g.group, 0, 0)[1]
      local id = member and match(member, '^%S+')
      if not id or place_of(list, id) >= base then break end
      call('ZREM', P .. 'group:' .. g.group, member)
      call('HDEL', P .. 'list:' .. list, 'm' .. id)
      dropped = dropped + 1
    end
    if dropped > before then settle(g.group, g.class) end
  end
  return dropped
end

-- Put away what is no message. Returns how many.
local function drop_malformed(list)
  local dropped = 0
  for _, g in ipairs(groups_of(list)) do
    if find(g.group, '^0|') then
      for _, member in ipairs(call('ZRANGE', P .. 'group:' .. g.group, 0, SEARCHED - 1)) do
        local place = place_of(list, match(member, '^%S+'))
        local index = tonumber(call('HGET', P .. 'list:' .. list, 'base') or 0) - place - 1
        local raw = index < 0 and index > -math.huge and call('LINDEX', list, index)
        -- Where it should be lies another one, if a stranger took it.
        local m = raw and describe(list, raw)
        if m and m.needs == '0' then
          bury(list, cut(list, place), {why = m.why, at = clock() / 1e6, id = m.task ~= '' and m.task or nil})
        end
        call('ZREM', P .. 'group:' .. g.group, member)
        dropped = dropped + 1
      end
      settle(g.group, g.class)
    end
  end
  return dropped
end

-- Positions that strangers' takes may move a list's base by, before it is indexed anew instead.
local SHIFTED = 1000

-- The index of a list is wrong: a stranger took from it. One who took its oldest elements, as stock workers do, only
-- moved its base; whatever else was done, it is indexed anew.
local function mend(list)
  local hash = P .. 'list:' .. list
  local got = call('HMGET', hash, 'base', 'top')
  local base, top, len = tonumber(got[1] or 0), tonumber(got[2] or 0), redis.pcall('LLEN', list)
  -- No list any more: a stranger's key of the same name.
  if type(len) ~= 'number' then return forget(list) end
  local raw = call('LINDEX', list, -1)
  local place = raw and find_place(list, describe(list, raw).tag)
  local sound = place and place >= base and place - base <= SHIFTED and len >= top - place
  if sound then
    -- Counted from 0: at a base beyond 2^53, which no count of messages makes, one more is the same.
    for i = 0, place - base - 1 do vacate(list, base + i) end
    call('HSET', hash, 'base', place)
    local dropped = drop_taken(list, place)
    sound = dropped + drop_malformed(list) > 0 or place > base
  end
  if not sound then forget(list) end
end
