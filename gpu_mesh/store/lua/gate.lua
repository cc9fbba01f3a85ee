-- Close a queue for a reason, or drop a reason; a queue is open where it has none.
--
-- ARGV[1]  queue        ARGV[2]  reason        ARGV[3]  scope: *, a node, or a worker (`gpu0@node`)
-- ARGV[4]  since when, by whom and the like, JSON; "" drops the reason
-- ARGV[5]  only where this is what holds now, or absent
-- returns  1 when that changed anything, else 0
--
-- gpumesh:gates  hash  <queue>|<reason>@<scope> → JSON
-- gpumesh:state  hash  what claims read of it, see claim.lua
-- gpumesh:stats  hash  closed|<queue>|<reason> → how often it was closed for that
-- gpumesh:gated  hash  how long queues were closed for the whole mesh, see _index.lua

--@include _index
--@include _idle

-- The first write needs no memory: a gate opens on a Redis that is full.
call('DEL', P .. 'nothing')
local queue, reason, scope = ARGV[1], ARGV[2], ARGV[3]
local gates, gate = P .. 'gates', queue .. '|' .. reason .. '@' .. scope
if ARGV[5] and call('HGET', gates, gate) ~= ARGV[5] then return 0 end
local was = call('HEXISTS', gates, gate)
if ARGV[4] == '' then call('HDEL', gates, gate) else call('HSET', gates, gate, ARGV[4]) end
if was == (ARGV[4] == '' and 0 or 1) then return 0 end
if was == 0 then redis.pcall('HINCRBY', P .. 'stats', 'closed|' .. queue .. '|' .. reason, 1) end

local closed, still = {}, false
for _, name in ipairs(call('HKEYS', gates)) do
  local other, of = match(name, '^(.-)|[^@]*@(.*)$')
  if of == scope then
    closed[#closed + 1] = other
    still = still or other == queue
  end
end
local field = ':' .. scope
if #closed > 0 then
  call('HSET', P .. 'state', field, ',' .. table.concat(closed, ',') .. ',')
else
  call('HDEL', P .. 'state', field)
end
if scope == '*' then
  local now, since = clock(), call('HGET', P .. 'gated', '+' .. queue)
  if still and not since then
    call('HSET', P .. 'gated', '+' .. queue, text(now))
  elseif since and not still then
    call('HSET', P .. 'gated', queue, text(gated_until(queue, now)))
    call('HDEL', P .. 'gated', '+' .. queue)
  end
end
if still then return 1 end

-- Those idle meanwhile did not wait for this queue.
local left = 0
for _, step in ipairs({'', ':3', ':6', ':9'}) do left = left + (tonumber(redis.pcall('LLEN', queue .. step)) or 0) end
for _, worker in ipairs(left > 0 and call('HKEYS', P .. 'idling') or {}) do
  if left > 0 and (scope == '*' or worker == scope or match(worker, '@(.*)$') == scope) then
    wake(worker)
    left = left - 1
  end
end
return 1
