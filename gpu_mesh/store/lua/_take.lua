-- Taking the message `best`: included by _claim.lua, at its end.

-- Take it out of its list. The list's last element fills its place, so that this costs the same at any depth; the order
-- of work is the index's, not the list's. Elements that lie before it and are few, or big, go to the other end first:
-- else they would be moved on by a place with each claim.
local FEW = 3
-- Where at an envelope's end a header is looked for, bytes. Quoted text cannot hold what is looked for.
local HEADERS = 16384

local list, tag, id = best.list, best.tag, best.id
local hash = P .. 'list:' .. list
local got = call('HMGET', hash, 'base', 'm' .. id, 'top')
-- Nowhere: a stranger took it.
local base, place = tonumber(got[1] or 0), tonumber(got[2] or id) or -math.huge
local p, raw, moved, last = place - base, nil, nil, nil
if p > 0 then
  raw = redis.pcall('LINDEX', list, -1 - p)
  moved = call('HGET', hash, 'o' .. base)
elseif p == 0 then
  raw = redis.pcall('RPOP', list)
end
-- Something else, or an error, is there if a stranger was. Stock clients write the tag at the end.
if type(raw) ~= 'string' then return {'look', list} end
if not (find(raw, tag, -1024, true) or find(raw, tag, 1, true)) then
  if p == 0 then call('RPUSH', list, raw) end
  return {'look', list}
end
if p > 0 then
  local top = tonumber(got[3] or 0)
  -- The first write needs no memory.
  call('DEL', P .. 'nothing')
  while p > 0 and (p <= FEW or moved and find(moved, '^b')) and call('LLEN', list) == top - base do
    call('RPOPLPUSH', list, list)
    if moved then call('HDEL', hash, 'o' .. base) end
    moved = moved or base
    call('HSET', hash, 'base', base + 1, 'top', top + 1, 'm' .. moved, top, 'o' .. top, moved)
    base, top, p = base + 1, top + 1, p - 1
    moved = call('HGET', hash, 'o' .. base)
  end
  last = call('RPOP', list)
end
call('HSET', hash, 'base', base + 1)
if p > 0 then
  call('LSET', list, -p, last)
  if moved then call('HDEL', hash, 'o' .. base) end
  moved = moved or base
  call('HSET', hash, 'm' .. moved, place, 'o' .. place, moved)
  if got[2] then call('HDEL', hash, 'm' .. id) end
elseif got[2] then
  call('HDEL', hash, 'm' .. id, 'o' .. place)
end

local group, class, next_at = best.group, best.class, best.next and match(best.next, '^%S+ (%d+)')
call('ZREM', P .. 'group:' .. group, best.member)
if next_at then
  call('ZADD', P .. 'class:' .. class, next_at, group)
else
  call('ZREM', P .. 'class:' .. class, group)
end
if not next_at and best.only then
  call('HDEL', P .. 'classes', class)
elseif best.first then
  for i = 1, #classes, 2 do
    -- What is left of the class is no older than this one was.
    if classes[i] == class and best.sent > classes[i + 1] + CLASS_LAG then call('HSET', P .. 'classes', class, best.at) end
  end
end

if ARGV[12] == '1' then stir(worker) end
for i = 1, #held do
  -- A stranger's copy of what it holds: kept apart, or one of the two would be lost.
  if held[i] == tag then
    call('LPUSH', P .. 'dead', cjson.encode({list = list, why = 'duplicate', at = now / 1e6, id = best.task}) .. '\n' .. raw)
    return {'look', '1'}
  end
end

local deliveries, band, standby = best.deliveries + 1, match(class, '[^|]*$'), ''
local returned = call('HDEL', P .. 'again', tag)
if band == 'critical' then
  -- The best of the others, of another node if there is one (SPEC P5).
  for _, name in ipairs(call('ZREVRANGE', P .. 'fit:' .. best.needs .. ':critical', 0, 15)) do
    local ends = name ~= worker and call('ZSCORE', P .. 'leases', name)
    if ends and tonumber(ends) > now then
      local elsewhere = match(name, '@(.*)$') ~= node
      if standby == '' or elsewhere then standby = name end
      if elsewhere then break end
    end
  end
end
local claimed_at = format('%.0f', now)
local record = table.concat({list, best.at, best.gated, deliveries, best.needs, band, claimed_at, standby, best.task}, '\t')
call('HSET', claims, tag, record, '=' .. tag, raw)
if find(REALTIME, ',' .. best.queue .. ',', 1, true) then
  call('ZADD', P .. 'realtime:' .. ARGV[16], claimed_at, worker .. '\t' .. tag)
  -- A device's own scope is that of all the devices that serve the job.
  if best.siblings ~= '' and ARGV[16] == worker then
    for sibling in string.gmatch(best.siblings, '[^,]+') do
      call('ZADD', P .. 'realtime:' .. sibling, claimed_at, worker .. '\t' .. tag)
    end
  end
end
if find(YIELDING, ',' .. best.queue .. ',', 1, true) then
  local yields = not find(raw, '"preemptible": false', -HEADERS, true)
  for realtime in string.gmatch(REALTIME, '[^,]+') do
    -- What it yielded to must come to this worker.
    yields = yields and find(ARGV[15], ',' .. realtime .. ',', 1, true)
  end
  local times = returned == 1 and call('GET', P .. 'preempted:' .. tag) or 0
  if yields and tonumber(times) < tonumber(ARGV[18]) then
    call('ZADD', P .. 'running:' .. best.queue, format('%.0f', now + ARGV[17]), worker .. '\t' .. tag)
  end
end
if best.saves_swap then call('HINCRBY', P .. 'stats', 'swaps_saved', 1) end
if ARGV[6] ~= '' and not find(ARGV[6], best.key, 1, true) and not find(ARGV[7], best.key, 1, true) then
  local siblings, outcome, model, ran = nil, 'swap', '', 0
--@include _ended
end
if best.siblings ~= '' then
  call('HSET', claims, '+' .. tag, best.siblings)
  for sibling in string.gmatch(best.siblings, '[^,]+') do
    call('HSET', P .. 'state', '+' .. sibling, worker .. '\t' .. tag)
    stir(sibling)
  end
  call('HDEL', P .. 'gather', node)
end
local forgotten = call('ZSCORE', P .. 'revoked', best.task)
return {'claim', tag, raw, record, best.siblings, forgotten and forgotten * 1e6 > now and 1 or 0}
