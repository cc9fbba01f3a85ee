-- What waits, by queue and needs: a look at the index, whatever the number of messages.
--
-- ARGV[1]  groups at most        ARGV[2]  only groups whose oldest message waits longer, µs
-- returns  of each its list, needs as JSON, how many there are
--@include _index

local now, found, left = clock(), {}, tonumber(ARGV[1])
for _, class in ipairs(call('HKEYS', CLASSES)) do
  for _, group in ipairs(call('ZRANGEBYSCORE', P .. 'class:' .. class, '-inf', text(now - ARGV[2]), 'LIMIT', 0, left)) do
    local number, list = match(group, '^(%d+)|[^|]*|(.*)$')
    local needs = number and number ~= '0' and call('HGET', NEEDS, number)
    if needs and needs ~= '{}' then
      found[#found + 1] = list
      found[#found + 1] = needs
      found[#found + 1] = call('ZCARD', P .. 'group:' .. group)
      left = left - 1
    end
  end
  if left <= 0 then break end
end
return found
