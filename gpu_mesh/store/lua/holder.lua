-- Who holds a task's message.
--
-- ARGV[1]  task id
-- returns  {} where nobody does, else {worker, claim as in _let_go.lua, delivery tag, envelope, without its body when
--          that is long}

local call, P = redis.call, 'gpumesh:'
-- Longest envelope that is given whole.
local WHOLE = 16384

local stop = '\t' .. ARGV[1]
for _, worker in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  local claims = P .. 'claims:' .. worker
  for _, tag in ipairs(call('HKEYS', claims)) do
    local record = not string.find(tag, '^[=+]') and call('HGET', claims, tag)
    if record and string.sub(record, -#stop) == stop then
      local raw = call('HGET', claims, '=' .. tag) or ''
      local headers = #raw > WHOLE and string.find(raw, '"headers": {', 1, true)
      return {worker, record, tag, headers and '{' .. string.sub(raw, headers) or #raw > WHOLE and '' or raw}
    end
  end
end
return {}
