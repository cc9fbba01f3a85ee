-- Put lines of gpumesh:ended into the counters, once.
--
-- ARGV[1]  number of the first line        ARGV[2]  how many lines
-- ARGV[3…] hash, s it is kept (0: for ever), fields it may have, how many follow: field, by how much, …
-- returns  1, or 0 when somebody else counted them
--
-- A field is `<kind and figures>\n<names>`. Where a hash is full, names that are new to it go by `*`: those of models,
-- whose kinds are `m` and `t`, from a third on.
-- gpumesh:ended…  see _ended.lua      gpumesh:count:…  see store/counters.py

local call, P = redis.call, 'gpumesh:'

if (call('GET', P .. 'ended:first') or '0') ~= ARGV[1] then return 0 end
-- The first write needs no memory: this works on a Redis that is full.
call('LTRIM', P .. 'ended', ARGV[2], -1)
call('INCRBY', P .. 'ended:first', ARGV[2])

local at = 3
while ARGV[at] do
  local hash, kept, most, fields = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  for i = at + 4, at + 2 + 2 * fields, 2 do
    local field = ARGV[i]
    local by = ARGV[i + 1]
    local now = redis.pcall('HINCRBY', hash, field, by)
    -- New to it, most likely; asked for afterwards, for few fields are.
    if now == tonumber(by) and call('HLEN', hash) > (string.find(field, '^[mt]') and most / 3 or most) then
      call('HDEL', hash, field)
      call('HINCRBY', hash, string.gsub(field, '\n.*$', '\n*'), by)
    end
  end
  if kept ~= '0' then call('EXPIRE', hash, kept) end
  at = at + 4 + 2 * fields
end
return 1
