-- Forget needs that no message has any more, and their rankings.
--
-- ARGV[1]  how many at most
-- returns  how many
--
-- Numbers are given twice only by a Redis that lost data; workers forget what they know of them when they reconnect.
--@include _index

local used = {['0'] = true}
for _, class in ipairs(call('HKEYS', CLASSES)) do
  for _, group in ipairs(call('ZRANGE', P .. 'class:' .. class, 0, -1)) do used[match(group, '^%d+')] = true end
end
for _, worker in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  for _, tag in ipairs(call('HKEYS', P .. 'claims:' .. worker)) do
    local needs = not find(tag, '^[=+]') and split(call('HGET', P .. 'claims:' .. worker, tag))[5]
    if needs then used[needs] = true end
  end
end
local gone = 0
for _, number in ipairs(call('HKEYS', NEEDS)) do
  if gone == tonumber(ARGV[1]) then break end
  if find(number, '^%d+$') and not used[number] then
    call('HDEL', NEEDS, number, '=' .. call('HGET', NEEDS, number))
    for _, mode in ipairs({'critical', 'normal', 'low'}) do call('UNLINK', P .. 'fit:' .. number .. ':' .. mode) end
    gone = gone + 1
  end
end
return gone
