-- What workers hold now, without the envelopes, where realtime jobs hold ai-batch back, and what ended since the mesh
-- began: for the metrics.
--
-- returns  {{worker, claim as in _let_go.lua, siblings, …}, {scope, …}, counters}
--          counters: field, count, … with a NUL between two; thousands of replies take clients much longer to read
--
-- gpumesh:realtime:<scope>  see _holds.lua      gpumesh:count:all  see store/counters.py

-- A stranger's key holds nothing.
local call, match, P = redis.pcall, string.match, 'gpumesh:'
local held, scopes, known = {}, {'*'}, {['*'] = true}
local function add(scope)
  if scope and not known[scope] then
    known[scope] = true
    scopes[#scopes + 1] = scope
  end
end
for _, worker in ipairs(call('ZRANGE', P .. 'leases', 0, -1)) do
  local claims = P .. 'claims:' .. worker
  for _, tag in ipairs(call('HKEYS', claims)) do
    if not match(tag, '^[=+]') then
      local got = call('HMGET', claims, tag, '+' .. tag)
      for _, part in ipairs({worker, got[1], got[2] or ''}) do held[#held + 1] = part end
    end
  end
  add(worker)
  add(match(worker, '@(.*)$'))
end
local holding = {}
for _, scope in ipairs(scopes) do
  for _, member in ipairs(call('ZRANGE', P .. 'realtime:' .. scope, 0, -1)) do
    local holder, tag = match(member, '^(.*)\t(.*)$')
    -- What no claim stands behind holds nothing back.
    if holder and call('HEXISTS', P .. 'claims:' .. holder, tag) == 1 then
      holding[#holding + 1] = scope
      break
    end
  end
end
local counted = call('HGETALL', P .. 'count:all')
return {held, holding, counted.err and '' or table.concat(counted, '\0')}
