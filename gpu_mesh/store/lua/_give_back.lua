-- Giving back a claim: included by requeue.lua and reap.lua, after _index, _idle and _let_go.

-- Put an envelope back at the old end of its list, its age and deliveries kept, and wake its standby. One that was
-- delivered `most` times goes to the dead letters. Returns "dead", "requeued", or "woken" when the standby was idle.
local function give_back(worker, m, raw, most)
  if m.deliveries >= most then
    call('HDEL', AGAIN, m.tag)
    bury(m.list, raw, {why = 'deliveries', worker = worker, at = clock() / 1e6, deliveries = m.deliveries, id = m.task})
    return 'dead'
  end
  local hash = P .. 'list:' .. m.list
  -- No list any more: a stranger's key of the same name.
  if type(redis.pcall('RPUSH', m.list, raw)) ~= 'number' then
    bury(m.list, raw, {why = 'its queue is no list in Redis', worker = worker, at = clock() / 1e6,
      deliveries = m.deliveries, id = m.task})
    return 'dead'
  end
  call('HSET', AGAIN, m.tag, text(m.at) .. '\t' .. text(m.gated) .. '\t' .. m.deliveries)
  local base = call('HINCRBY', hash, 'base', -1)
  -- The place may be that of one which lies elsewhere now: an id of its own.
  m.id = (#raw > BIG and 'br' or 'r') .. call('HINCRBY', hash, 'returned', 1)
  call('HSET', hash, 'm' .. m.id, base, 'o' .. base, m.id)
  enter(m)
  if m.standby ~= '' and call('HEXISTS', P .. 'idling', m.standby) == 1 then
    wake(m.standby)
    return 'woken'
  end
  return 'requeued'
end
