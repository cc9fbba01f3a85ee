-- Register a node, or renew its registration.
--
-- KEYS[1]  hash of nodes: name → JSON
-- ARGV[1]  node name
-- ARGV[2]  instance: who registers; the same on every renewal
-- ARGV[3]  registration as JSON, an object
-- ARGV[4]  seconds of silence after which the name is free again
-- ARGV[5]  instance that may be displaced ("" for none): a dead one of the same machine
-- returns  {1, ""} registered, or {0, JSON of the living holder}
--
-- Time is Redis's. The registration is kept as sent, with instance and seen_at beside it.

-- The first write needs no memory: on a Redis that is full nodes are there all the same.
redis.call('DEL', 'gpumesh:nothing')
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then
  local ok, entry = pcall(cjson.decode, held)
  -- What cannot be read holds no name.
  local sound = ok and type(entry) == 'table' and type(entry.seen_at) == 'number'
  local other = sound and entry.instance ~= ARGV[2] and entry.instance ~= ARGV[5]
  -- Either way: the clock may step back.
  if other and entry.left ~= true and math.abs(now - entry.seen_at) <= tonumber(ARGV[4]) then
    return {0, held}
  end
end
local head = string.format('{"instance":%s,"seen_at":%.3f,"node":', cjson.encode(ARGV[2]), now)
redis.call('HSET', KEYS[1], ARGV[1], head .. ARGV[3] .. '}')
return {1, ''}
