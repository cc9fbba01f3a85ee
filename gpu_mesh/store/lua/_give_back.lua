-- Giving back a claim: included by requeue.lua and reap.lua, after _index.

-- Put an envelope back at the old end of its list, its age and deliveries kept.
local function give_back(raw, m)
  local got = call('HMGET', P .. 'list:' .. m.list, 'base', 'n')
  call('RPUSH', m.list, raw)
  call('HSET', AGAIN, m.tag, m.at .. '\t' .. m.gated .. '\t' .. m.deliveries)
  m.q = tonumber(got[1] or 0) - 1
  enter(m, m.q, tonumber(got[2] or 0) + 1)
end
