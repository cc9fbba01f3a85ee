-- Some of a list's messages, from a position on, towards the youngest. Positions are those of _index.lua: a message that
-- waits keeps its own or moves on to a younger one's, so that going on behind a page misses none.
--
-- ARGV[1]  list        ARGV[2]  position        ARGV[3]  messages at most
-- returns  {position of the first, position to go on from, or "" at the end; envelope, without its body when that is long, …}

local call = redis.call
-- Longest envelope that is given whole.
local WHOLE = 16384

local list = ARGV[1]
local len = redis.pcall('LLEN', list)
-- No list: a stranger's key of the same name.
if type(len) ~= 'number' then return {0, ''} end
local base = tonumber(call('HGET', 'gpumesh:list:' .. list, 'base') or 0)
local from = math.max(base, tonumber(ARGV[2]))
local upto = math.min(from + tonumber(ARGV[3]), base + len)
if from >= upto then return {0, ''} end
local found = call('LRANGE', list, base - upto, base - from - 1)
local told = {string.format('%.0f', from), upto < base + len and string.format('%.0f', upto) or ''}
for i = #found, 1, -1 do
  local raw = found[i]
  local headers = #raw > WHOLE and string.find(raw, '"headers": {', 1, true)
  told[#told + 1] = headers and '{' .. string.sub(raw, headers) or raw
end
return told
