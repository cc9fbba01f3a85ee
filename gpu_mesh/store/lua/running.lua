-- What some workers hold: each claim, and the envelope without its body when that is long.
--
-- ARGV[1…]  workers
-- returns   {worker, claim as in _let_go.lua, siblings, envelope, …}

local call, P = redis.call, 'gpumesh:'
-- Longest envelope that is given whole.
local WHOLE = 16384

local told = {}
for i = 1, #ARGV do
  local claims = P .. 'claims:' .. ARGV[i]
  for _, tag in ipairs(call('HKEYS', claims)) do
    if not string.find(tag, '^[=+]') then
      local got = call('HMGET', claims, tag, '+' .. tag, '=' .. tag)
      local raw = got[3] or ''
      local headers = #raw > WHOLE and string.find(raw, '"headers": {', 1, true)
      if headers then raw = '{' .. string.sub(raw, headers) end
      for _, part in ipairs({ARGV[i], got[1], got[2] or '', #raw > WHOLE and '' or raw}) do told[#told + 1] = part end
    end
  end
end
return told
