-- Take the best waiting message for a device and record who holds it, in one step. The rule is domain/claim.py's.
--
-- ARGV[1]   worker (`gpu0@node`)       ARGV[2]   its node
-- ARGV[3]   delivery tags of the claims it knows it holds, tab-separated
-- ARGV[4]   numbers of the needs its device meets, `,1,7,`       ARGV[5]   and of those it does not
-- ARGV[6]   numbers of the needs whose model it has loaded; "" when it has none       ARGV[7]  and that need no model
-- ARGV[8]   horizon, s        ARGV[9]   affinity bound, s        ARGV[10]  messages to index at most
-- ARGV[11…] the queues it consumes
--
-- returns   {"claim", tag, envelope, list, deliveries, at, needs number}
--           {"lost", …}      the same, for a claim of this worker that it does not name: its reply was lost
--           {"needs", number, text, …}   needs it has not judged yet, some of them: judge and call again
--           {"more"}         not done, or the index was wrong and is mended: call again
--           {"refused", why} its lease is over, or it is cordoned
--           {"none"}         nothing for it; it is registered as idle and will be woken
--
-- gpumesh:leases      zset   worker → end of its lease
-- gpumesh:claims:<w>  hash   delivery tag → list, at, gated, deliveries, needs, band, claimed at, task id; newline; envelope
-- gpumesh:idle        zset   worker → idle since
-- gpumesh:gates       hash   <queue>|<reason>@<scope> → JSON; the queue is closed for devices in the scope
-- gpumesh:cordon      hash   worker or node → why
-- gpumesh:looked      string while it lives, what strangers pushed was looked for; a claim that finds nothing looks
--
-- Works on a Redis that is full: the first write needs no memory.
--@include _index
--@include _adopt
--@rules

-- How long strangers' messages may go unseen while there is other work, ms.
local LOOK_EVERY_MS = 100
-- Needs to be judged that one reply holds at most.
local JUDGED_AT_ONCE = 100

local worker, node = ARGV[1], ARGV[2]
-- It is awake. Also the first write, see above.
call('ZREM', P .. 'idle', worker)
local now_text = clock()
local now = tonumber(now_text)
local claims = P .. 'claims:' .. worker

local lease = call('ZSCORE', P .. 'leases', worker)
if not lease or tonumber(lease) <= now then return {'refused', 'lease'} end

local held = call('HKEYS', claims)
for i = 1, #held do
  if not find('\t' .. ARGV[3] .. '\t', '\t' .. held[i] .. '\t', 1, true) then
    local m, raw = read_claim(call('HGET', claims, held[i]))
    return {'lost', held[i], raw, m.list, m.deliveries, m.at, m.needs}
  end
end

local why = call('HMGET', P .. 'cordon', worker, node)
if why[1] or why[2] then return {'refused', why[1] or why[2]} end

local gated, totals = {}, call('HGETALL', P .. 'gated')
for i = 1, #totals, 2 do gated[totals[i]] = tonumber(totals[i + 1]) end
for i = 11, #ARGV do
  local queue = ARGV[i]
  OPEN[queue] = true
  if not WEIGHT[queue] then WEIGHT[queue], AGING[queue], TOP[queue] = WEIGHT[''], AGING[''], TOP[''] end
end
for _, gate in ipairs(call('HKEYS', P .. 'gates')) do
  local queue, scope = match(gate, '^(.-)|[^@]*@(.*)$')
  if scope == 'mesh' or scope == node or scope == worker then OPEN[queue] = false end
end
local horizon = tonumber(ARGV[8])

local function look()
  local adopt, left, limit, done = adopter(), 0, tonumber(ARGV[10]), 0
  for i = 11, #ARGV do
    for step = 0, 9, 3 do
      local list = step == 0 and ARGV[i] or ARGV[i] .. ':' .. step
      local count, rest = adopt(list, now_text, gated[ARGV[i]] or 0, limit - done)
      done, left = done + count, left + rest
    end
  end
  if left == 0 then call('SET', P .. 'looked', 1, 'PX', LOOK_EVERY_MS) end
  return left
end

local unknown, mended = {'needs'}, false
local misfits = ARGV[5]
if #misfits > 2048 then
  misfits = {}
  for number in string.gmatch(ARGV[5], '%d+') do misfits[number] = true end
end

-- The oldest message of a group; nil when the index is wrong.
local function head(group)
  local two = call('ZRANGE', P .. 'group:' .. group, 0, 1, 'WITHSCORES')
  local uid, list, needs = two[1], match(group, '^(.-)|.-|(.*)$')
  local got = uid and call('HMGET', P .. 'list:' .. list, 'base', 'n', 'p' .. uid, uid)
  if not got or not got[3] or not got[4] then
    forget(list)
    mended = true
    return nil
  end
  local at, gated_then, deliveries, band, tag, id = match(got[4], '^(.-)\t(.-)\t(.-)\t(.-)\t(.-)\t(.*)$')
  return {uid = uid, list = list, needs = needs, group = group, next_at = two[4], base = tonumber(got[1]),
    n = tonumber(got[2]), q = tonumber(got[3]), at = at, gated = gated_then, deliveries = deliveries, band = band,
    tag = tag, id = id, class = false, key = false, score_at = false, class_first = false, class_next_at = false,
    sent = false, waited = false, score = false}
end

local function drop_malformed(group, class)
  local m = head(group)
  mended = true
  if not m then return end
  m.class = class
  local raw = take(m)
  forget(m.list)
  if raw then bury(m.list, raw, {why = 'malformed', at = now}) end
end

-- The oldest message of a class that fits and, where `wanted` is given, has its needs there: within a class the oldest
-- has the best score. Of several sent at once the one that came in first.
local function oldest(class, wanted)
  -- The first one fits, as a rule.
  local from, page, found = 0, 2, nil
  while true do
    local groups = call('ZRANGE', P .. 'class:' .. class, from, from + page - 1, 'WITHSCORES')
    for i = 1, #groups, 2 do
      local group, at = groups[i], groups[i + 1]
      if found and at ~= found.score_at then return found end
      local needs = match(group, '[^|]*$')
      local key = ',' .. needs .. ','
      if find(ARGV[4], key, 1, true) then
        local m = (not wanted or find(wanted, key, 1, true)) and head(group)
        if m and (not found or m.uid < found.uid) then
          found = m
          m.class, m.key, m.score_at, m.class_first = class, key, at, from + i == 1
          m.class_next_at = groups[4]
        end
      elseif needs == 'bad' then
        drop_malformed(group, class)
      elseif not (misfits == ARGV[5] and find(misfits, key, 1, true) or misfits ~= ARGV[5] and misfits[needs]) then
        unknown[#unknown + 1] = needs
        unknown[#unknown + 1] = call('HGET', NEEDS, needs)
      end
      if mended or #unknown > 2 * JUDGED_AT_ONCE then return nil end
    end
    if #groups < 2 * page then return found end
    from, page = from + page, 32
  end
end

local function score(queue, band, waited)
  local aged = waited < horizon and waited / horizon or 1
  local value, top = WEIGHT[queue] + BONUS[band] + aged * AGING[queue], TOP[queue]
  return value < top and value or top
end

local function pick()
  local classes, n, best = call('ZRANGE', CLASSES, 0, -1, 'WITHSCORES'), 0, nil
  local names, ats, bounds = {}, {}, {}
  for i = 1, #classes, 2 do
    local queue, band = match(classes[i], '^(.*)|(.*)$')
    if OPEN[queue] and WEIGHT[queue] and BONUS[band] then
      n = n + 1
      names[n], ats[n] = classes[i], tonumber(classes[i + 1])
      -- What its oldest message would score, should it fit.
      bounds[n] = score(queue, band, math.max(0, now - ats[n]))
    end
  end
  while true do
    local k, bound, at = nil, best and best.score or -1, best and best.sent
    -- `names` is ordered by time: of equal bounds the oldest comes first.
    for i = 1, n do
      local value = bounds[i]
      if value and (value > bound or (at and value == bound and ats[i] <= at)) then k, bound, at = i, value, nil end
    end
    if not k then return best end
    bounds[k] = false
    local m = oldest(names[k])
    if mended then return nil end
    if m then
      local queue, band = match(names[k], '^(.*)|(.*)$')
      m.sent = tonumber(m.at)
      m.waited = math.max(0, now - m.sent - ((gated[queue] or 0) - tonumber(m.gated)))
      m.score = score(queue, band, m.waited)
      if not best or m.score > best.score or (m.score == best.score and
        (m.sent < best.sent or (m.sent == best.sent and m.uid < best.uid))) then
        best = m
      end
    end
  end
end

local left = 0
if call('EXISTS', P .. 'looked') == 0 then left = look() end
local best = pick()
if not best and not mended and left == 0 and #unknown == 1 then
  left = look()
  best = pick()
end
if mended then return {'more'} end
if #unknown > 1 then return unknown end
if not best then
  if left > 0 then return {'more'} end
  call('ZADD', P .. 'idle', now_text, worker)
  return {'none'}
end

-- Jobs of the loaded model first, within the class and up to a bound (SPEC P7).
if ARGV[6] ~= '' and best.waited < tonumber(ARGV[9]) and not find(ARGV[6], best.key, 1, true) and
  not find(ARGV[7], best.key, 1, true) then
  local same_model = oldest(best.class, ARGV[6])
  if same_model then
    best = same_model
    call('HINCRBY', P .. 'stats', 'swaps_saved', 1)
  end
  if mended then return {'more'} end
end

local raw = take(best)
if not raw then
  forget(best.list)
  return {'more'}
end
for i = 1, #held do
  -- A stranger's copy of what it holds: kept apart, or one of the two would be lost.
  if held[i] == best.tag then
    bury(best.list, raw, {why = 'duplicate', at = now, id = best.id})
    return {'more'}
  end
end
local deliveries = best.deliveries + 1
if deliveries > 1 then call('HDEL', AGAIN, best.tag) end
call('HSET', claims, best.tag, table.concat({best.list, best.at, best.gated, deliveries, best.needs, best.band, now_text,
  best.id}, '\t') .. '\n' .. raw)
return {'claim', best.tag, raw, best.list, deliveries, best.at, best.needs}
