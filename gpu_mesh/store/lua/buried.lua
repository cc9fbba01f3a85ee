-- The heads of dead letters that were put away lately, newest first: their envelopes may be megabytes.
--
-- ARGV[1]  how lately, s        ARGV[2]  how many at most
-- returns  how many dead letters there are, then the heads

local t = redis.call('TIME')
local since = t[1] + t[2] / 1e6 - ARGV[1]
local found = {redis.call('LLEN', 'gpumesh:dead')}
for i = 0, math.min(found[1], tonumber(ARGV[2])) - 1 do
  local head = string.match(redis.call('LINDEX', 'gpumesh:dead', i), '^[^\n]*')
  local ok, told = pcall(cjson.decode, head)
  local at = ok and type(told) == 'table' and tonumber(told.at)
  if at and at < since then break end
  found[#found + 1] = head
end
return found
