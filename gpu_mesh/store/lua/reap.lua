-- Give back what dead workers hold.
--
-- ARGV[1]  worker to reap now, whatever its lease says ("" for those whose lease ended)
-- ARGV[2]  deliveries after which a message is dead
-- ARGV[3]  claims to give back at most in one call
-- returns  {worker, task id, list, "requeued", "woken" or "dead", …}
--
-- gpumesh:stats hash  claims_requeued, claims_dead, leases_ended → how many, since the mesh began
-- gpumesh:dead  list  {list, why, worker, at, deliveries, id} as JSON; newline; envelope. Newest first
--@include _index
--@include _idle
--@realtime
--@include _let_go
--@include _give_back
--@include _tell

-- The first write needs no memory: this works on a Redis that is full.
call('DEL', P .. 'nothing')
local now = clock()
local dead = {ARGV[1]}
if ARGV[1] == '' then
  if now <= tonumber(call('GET', P .. 'grace') or 0) then return {} end
  dead = call('ZRANGEBYSCORE', P .. 'leases', '-inf', text(now), 'LIMIT', 0, 100)
end
local told, left = {}, tonumber(ARGV[3])
for _, worker in ipairs(dead) do
  for _, tag in ipairs(call('HKEYS', P .. 'claims:' .. worker)) do
    if not find(tag, '^[=+]') then
      if left == 0 then return told end
      left = left - 1
      local m, raw = read_claim(worker, tag)
      let_go(worker, tag)
      local outcome = give_back(worker, m, raw, tonumber(ARGV[2]))
      tell(worker, m, raw, outcome == 'dead' and 'dead' or 'lost')
      redis.pcall('HINCRBY', P .. 'stats', outcome == 'dead' and 'claims_dead' or 'claims_requeued', 1)
      for _, part in ipairs({worker, m.task, m.list, outcome}) do told[#told + 1] = part end
    end
  end
  local ended = call('ZREM', P .. 'leases', worker)
  if ARGV[1] == '' then redis.pcall('HINCRBY', P .. 'stats', 'leases_ended', ended) end
  stir(worker)
end
return told
