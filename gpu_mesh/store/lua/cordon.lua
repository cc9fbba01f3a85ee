-- Cordon a node or a worker for a reason, or drop a reason; it may claim where it has none.
--
-- ARGV[1]  node, or worker (`gpu0@node`)        ARGV[2]  reason
-- ARGV[3]  since when, by whom and the like, JSON; "" drops the reason
-- ARGV[4]  why, in words
-- ARGV[5]  how long what runs there may take to yield, s; "" where it goes on to its end
-- ARGV[6]  only where this is what holds now, or absent
-- returns  1 when it was not cordoned for that reason (or with "" was), else 0
--
-- gpumesh:cordons  hash  <reason>@<name> → JSON        <reason>!<name> → why        <reason>><name> → to yield, s
-- gpumesh:state    hash  what claims and workers read of it: !<name> → why, ><name> → to yield, s; space; why

local call, P = redis.call, 'gpumesh:'
--@include _idle

-- The first write needs no memory: a cordon ends on a Redis that is full.
call('DEL', P .. 'nothing')
local name, reason = ARGV[1], ARGV[2]
local cordons, field = P .. 'cordons', reason .. '@' .. name
if ARGV[6] and call('HGET', cordons, field) ~= ARGV[6] then return 0 end
local was = call('HEXISTS', cordons, field)
call('HDEL', cordons, field, reason .. '!' .. name, reason .. '>' .. name)
if ARGV[3] ~= '' then
  call('HSET', cordons, field, ARGV[3], reason .. '!' .. name, ARGV[4])
  if ARGV[5] ~= '' then call('HSET', cordons, reason .. '>' .. name, ARGV[5]) end
end

local why, yields, because = {}, nil, nil
for _, other in ipairs(call('HKEYS', cordons)) do
  local kind, mark, of = string.match(other, '^([^@!>]+)([!>])(.*)$')
  if of == name and mark == '!' then
    why[#why + 1] = call('HGET', cordons, other)
  elseif of == name then
    local within = tonumber(call('HGET', cordons, other))
    -- The shortest of several.
    if not yields or within < yields then
      yields, because = within, call('HGET', cordons, kind .. '!' .. name)
    end
  end
end
table.sort(why)
if #why > 0 then
  call('HSET', P .. 'state', '!' .. name, table.concat(why, '; '))
else
  call('HDEL', P .. 'state', '!' .. name)
end
if yields then
  call('HSET', P .. 'state', '>' .. name, yields .. ' ' .. because)
else
  call('HDEL', P .. 'state', '>' .. name)
end

for _, worker in ipairs(call('HKEYS', P .. 'idling')) do
  local part, node = string.match(worker, '^(.*)@(.*)$')
  if worker == name or (node == name and part ~= 'control') then
    -- A publish must not wake who may not claim.
    if #why > 0 then stir(worker) end
  end
end
return was == (ARGV[3] == '' and 1 or 0) and 1 or 0
