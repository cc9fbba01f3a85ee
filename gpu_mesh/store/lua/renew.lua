-- Renew a worker's lease.
--
-- ARGV[1]  worker        ARGV[2]  how long it holds, µs        ARGV[3]  1: also when it had ended (a worker that starts)
-- returns  2 when the worker is the one that reaps and promotes for all, 1 when another is; 0 when the lease had ended:
--          what the worker held may run elsewhere
--
-- gpumesh:renewed  string  when any worker renewed last; a gap of more than half a lease means that Redis was away, or
--                          that its clock jumped, and
-- gpumesh:grace    string  until when nobody is reaped for that
-- gpumesh:tender   string  the worker that reaps and promotes; expires with its renewals

local call, P = redis.call, 'gpumesh:'
-- The first write needs no memory: this works on a Redis that is full.
call('DEL', P .. 'nothing')
local function text(number) return string.format('%.0f', number) end
local t = call('TIME')
local now, ttl = t[1] * 1e6 + t[2], tonumber(ARGV[2])
local gap = now - (call('GET', P .. 'renewed') or now)
if gap > ttl / 2 then
  call('SET', P .. 'grace', text(now + ttl))
elseif gap < -ttl / 2 then
  -- The clock stepped back, and what ends by it must not end so much later.
  local leases = call('ZRANGE', P .. 'leases', 0, -1, 'WITHSCORES')
  for i = 1, #leases, 2 do call('ZADD', P .. 'leases', text(leases[i + 1] + gap), leases[i]) end
  local grace = call('GET', P .. 'grace')
  if grace then call('SET', P .. 'grace', text(grace + gap)) end
  call('DEL', P .. 'tender')
end
call('SET', P .. 'renewed', text(now))
local held = call('ZSCORE', P .. 'leases', ARGV[1])
-- Within the grace an ended lease is only one that could not be renewed.
local grace = tonumber(call('GET', P .. 'grace') or 0)
if ARGV[3] ~= '1' and (not held or (tonumber(held) <= now and now > grace)) then return 0 end
call('ZADD', P .. 'leases', text(now + ttl), ARGV[1])
local tender = call('GET', P .. 'tender')
if tender and tender ~= ARGV[1] then return 1 end
-- Before its lease ends another one has it.
call('SET', P .. 'tender', ARGV[1], 'PX', math.ceil(ttl / 2000))
return 2
