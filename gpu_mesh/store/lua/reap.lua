-- Give back what dead workers hold.
--
-- ARGV[1]  worker to reap now, whatever its lease says ("" for those whose lease ended)
-- ARGV[2]  deliveries after which a message is dead
-- ARGV[3]  claims to give back at most in one call
-- returns  {worker, task id, "requeued" or "dead", …}
--
-- gpumesh:dead  list  {list, why, worker, at, deliveries, id} as JSON; newline; envelope. Newest first
--@include _index
--@include _give_back

call('DEL', P .. 'nothing')
local now_text = clock()
local now = tonumber(now_text)
local dead = {ARGV[1]}
if ARGV[1] == '' then
  if now <= tonumber(call('GET', P .. 'grace') or 0) then return {} end
  dead = call('ZRANGEBYSCORE', P .. 'leases', '-inf', now_text, 'LIMIT', 0, 100)
end
local told, left = {}, tonumber(ARGV[3])
for _, worker in ipairs(dead) do
  local claims = P .. 'claims:' .. worker
  for _, tag in ipairs(call('HKEYS', claims)) do
    if left == 0 then return told end
    left = left - 1
    local m, raw = read_claim(call('HGET', claims, tag))
    call('HDEL', claims, tag)
    local outcome = 'requeued'
    m.tag = tag
    if m.deliveries >= tonumber(ARGV[2]) then
      outcome = 'dead'
      call('HDEL', AGAIN, tag)
      bury(m.list, raw, {why = 'deliveries', worker = worker, at = now, deliveries = m.deliveries, id = m.id})
    else
      give_back(raw, m)
    end
    told[#told + 1] = worker
    told[#told + 1] = m.id
    told[#told + 1] = outcome
  end
  call('ZREM', P .. 'leases', worker)
  call('ZREM', P .. 'idle', worker)
end
return told
